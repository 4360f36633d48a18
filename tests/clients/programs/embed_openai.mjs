// OpenAI's client for Node: vectors of texts, in base64, its default, and as numbers.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.URL}/v1`, apiKey: "none", maxRetries: 0 });
const model = process.env.MODEL;
const both = await client.embeddings.create({ model, input: ["a record", "x"] });
const one = await client.embeddings.create({ model, input: "a record", encoding_format: "float" });
console.log(JSON.stringify([...both.data, ...one.data].map((row) => row.embedding)));
