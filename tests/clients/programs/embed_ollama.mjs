// Ollama's client for Node: vectors of texts.
import { Ollama } from "ollama";

const client = new Ollama({ host: process.env.URL });
const model = process.env.MODEL;
const both = await client.embed({ model, input: ["a record", "x"] });
const one = await client.embed({ model, input: "a record" });
console.log(JSON.stringify([...both.embeddings, ...one.embeddings]));
