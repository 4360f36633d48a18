// AI SDK with providers for three APIs: text, a stream, an object with a schema, a tool round trip.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";

const { URL: url, MODEL: name } = process.env;
const v1 = { baseURL: `${url}/v1`, apiKey: "none" };
const models = {
  chat: createOpenAI(v1).chat(name),
  messages: createAnthropic(v1)(name),
  ollama: createOllama({ baseURL: `${url}/api` })(name),
};
const schema = z.object({ name: z.string(), people: z.number().int() });
const measure = tool({
  description: "Measure the temperature of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => "21 degrees",
});
const found = {};
for (const [api, model] of Object.entries(models)) {
  const more = { model, maxRetries: 0, maxOutputTokens: 500 };
  const one = (found[api] = { text: (await generateText({ ...more, prompt: "Hello" })).text });
  one.stream = "";
  for await (const piece of streamText({ ...more, prompt: "Hello" }).textStream) {
    one.stream += piece;
  }
  const output = Output.object({ schema });
  one.object = (await generateText({ ...more, output, prompt: "Describe the city." })).output;
  const asked = { prompt: "How warm is it?", tools: { measure }, stopWhen: stepCountIs(3) };
  one.after = (await generateText({ ...more, ...asked })).text;
}
console.log(JSON.stringify(found));
