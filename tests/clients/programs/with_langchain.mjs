// LangChain for JavaScript: three methods of structured output, tools and a stream.
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

const chat = new ChatOpenAI({
  model: process.env.MODEL,
  apiKey: "none",
  maxRetries: 0,
  configuration: { baseURL: `${process.env.URL}/v1` },
});
const found = { text: (await chat.invoke("Hello")).content, stream: "" };
for await (const piece of await chat.stream("Hello")) {
  found.stream += piece.content;
}
const schema = z.object({ name: z.string(), people: z.number().int() });
for (const method of ["functionCalling", "jsonMode", "jsonSchema"]) {
  const structured = chat.withStructuredOutput(schema, { method, name: "City" });
  found[method] = await structured.invoke("Describe the city in JSON.");
}
const measure = tool(async () => "21 degrees", {
  name: "measure",
  description: "Measure the temperature of a city.",
  schema: z.object({ city: z.string() }),
});
const able = chat.bindTools([measure]);
const messages = [new HumanMessage("How warm is it?")];
const called = await able.invoke(messages);
found.called = called.tool_calls.map((call) => [call.name, call.args]);
messages.push(called);
for (const call of called.tool_calls) {
  messages.push(new ToolMessage({ content: await measure.invoke(call.args), tool_call_id: call.id }));
}
found.after = (await able.invoke(messages)).content;
console.log(JSON.stringify(found));
