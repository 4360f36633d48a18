// Vercel's AI SDK: text, a stream, objects with a schema and a tool round trip.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "reconciler",
  baseURL: `${process.env.URL}/v1`,
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider(process.env.MODEL);
const more = { model, maxRetries: 0 };
const found = {};

found.text = (await generateText({ ...more, prompt: "Hello" })).text;
found.stream = "";
for await (const piece of streamText({ ...more, prompt: "Hello" }).textStream) {
  found.stream += piece;
}

const schema = z.object({ name: z.string(), people: z.number().int() });
const prompt = "Describe the city.";
found.object = (await generateObject({ ...more, schema, prompt })).object;
found.noSchema = (await generateObject({ ...more, output: "no-schema", prompt })).object;
const streamed = streamObject({ ...more, schema, prompt });
for await (const part of streamed.partialObjectStream) {
  found.partial = part;
}
found.streamed = await streamed.object;

found.measured = [];
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
  stopWhen: stepCountIs(4),
});
found.after = answer.text;
found.steps = answer.steps.length;

console.log(JSON.stringify(found));
