// OpenAI's agents for JavaScript with both of its APIs: text, a stream, an output type, a tool.
import { Agent, OpenAIProvider, Runner, tool } from "@openai/agents";
import { z } from "zod";

const { URL: url, MODEL: model } = process.env;
const City = z.object({ name: z.string(), people: z.number().int() });
const measure = tool({
  name: "measure",
  description: "Measure the temperature of a city.",
  parameters: z.object({ city: z.string() }),
  execute: async () => "21 degrees",
});
const found = {};
for (const [api, useResponses] of [["chat", false], ["responses", true]]) {
  const provider = { baseURL: `${url}/v1`, apiKey: "none", useResponses };
  const runner = new Runner({
    modelProvider: new OpenAIProvider(provider),
    tracingDisabled: true,
  });
  const agent = (more) => new Agent({ name: "Tester", model, instructions: "Help.", ...more });
  const one = (found[api] = {});
  one.text = (await runner.run(agent({}), "Hello")).finalOutput;
  const streamed = await runner.run(agent({}), "Hello", { stream: true });
  await streamed.completed;
  one.stream = streamed.finalOutput;
  one.object = (await runner.run(agent({ outputType: City }), "Describe the city.")).finalOutput;
  one.after = (await runner.run(agent({ tools: [measure] }), "How warm is it?")).finalOutput;
}
console.log(JSON.stringify(found));
