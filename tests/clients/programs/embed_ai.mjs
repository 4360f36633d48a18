// Vercel's AI SDK: vectors of texts.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, embedMany } from "ai";

const provider = createOpenAICompatible({ name: "reconciler", baseURL: `${process.env.URL}/v1` });
const model = provider.textEmbeddingModel(process.env.MODEL);
const both = await embedMany({ model, values: ["a record", "x"], maxRetries: 0 });
const one = await embed({ model, value: "a record", maxRetries: 0 });
console.log(JSON.stringify([...both.embeddings, one.embedding]));
