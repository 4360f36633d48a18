// LangChain for JavaScript with four APIs: chat, a stream, structured output, an agent with a tool.
import { ChatAnthropic } from "@langchain/anthropic";
import { tool } from "@langchain/core/tools";
import { ChatOllama } from "@langchain/ollama";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent } from "langchain";
import { z } from "zod";

const { URL: url, MODEL: model } = process.env;
const more = { model, apiKey: "none", maxRetries: 0 };
const configuration = { baseURL: `${url}/v1` };
const chats = {
  chat: new ChatOpenAI({ ...more, configuration }),
  responses: new ChatOpenAI({ ...more, configuration, useResponsesApi: true }),
  messages: new ChatAnthropic({ ...more, anthropicApiUrl: url }),
  ollama: new ChatOllama({ model, baseUrl: url, maxRetries: 0 }),
};
const City = z.object({ name: z.string(), people: z.number().int() });
const measure = tool(async () => "21 degrees", {
  name: "measure",
  description: "Measure the temperature of a city.",
  schema: z.object({ city: z.string() }),
});
const found = {};
for (const [name, chat] of Object.entries(chats)) {
  const one = (found[name] = { text: (await chat.invoke("Hello")).text, stream: "" });
  for await (const piece of await chat.stream("Hello")) one.stream += piece.text;
  const method = name === "messages" ? "functionCalling" : "jsonSchema";
  const structured = chat.withStructuredOutput(City, { method, name: "City" });
  one.object = await structured.invoke("Describe the city.");
  const messages = [{ role: "user", content: "How warm is it?" }];
  const ended = await createAgent({ model: chat, tools: [measure] }).invoke({ messages });
  one.after = ended.messages.at(-1).text;
}
console.log(JSON.stringify(found));
