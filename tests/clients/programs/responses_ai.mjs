// Vercel's AI SDK with its provider for OpenAI, which uses the Responses API.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAI({ baseURL: `${process.env.URL}/v1`, apiKey: "none" });
const more = { model: provider.responses(process.env.MODEL), maxRetries: 0 };
const found = { measured: [] };

found.text = (await generateText({ ...more, prompt: "Hello" })).text;
found.stream = "";
for await (const piece of streamText({ ...more, prompt: "Hello" }).textStream) {
  found.stream += piece;
}
const schema = z.object({ name: z.string(), people: z.number().int() });
found.parsed = (await generateObject({ ...more, schema, prompt: "Describe the city." })).object;

const measure = tool({
  description: "Measure the temperature of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    found.measured.push(city);
    return "21 degrees";
  },
});
const answer = await generateText({
  ...more,
  prompt: "How warm is it?",
  tools: { measure },
  stopWhen: stepCountIs(3),
  providerOptions: { openai: { store: false } },
});
found.after = answer.text;

console.log(JSON.stringify(found));
