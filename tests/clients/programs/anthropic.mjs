// Anthropic's client for Node: a message, a stream, structured output and a tool round trip.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.URL, apiKey: "none", maxRetries: 0 });
const model = process.env.MODEL;
const ask = (content) => ({ model, max_tokens: 500, messages: [{ role: "user", content }] });
const text = (message) => message.content.map((block) => block.text ?? "").join("");
const found = {};

found.text = text(await client.messages.create(ask("Hello")));
found.stream = "";
const stream = client.messages.stream(ask("Hello")).on("text", (piece) => {
  found.stream += piece;
});
found.final = text(await stream.finalMessage());
found.counted = (await client.messages.countTokens({ model, messages: ask("Hello").messages })).input_tokens;

const tools = [
  {
    name: "measure",
    description: "Measure the temperature of a city.",
    input_schema: { type: "object", properties: { city: { type: "string" } } },
  },
];
const called = await client.messages.create({ ...ask("How warm is it?"), tools });
const use = called.content.find((block) => block.type === "tool_use");
found.called = [use.name, use.input, called.stop_reason];
const after = await client.messages.create({
  ...ask("How warm is it?"),
  tools,
  messages: [
    ...ask("How warm is it?").messages,
    { role: "assistant", content: called.content },
    { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "21 degrees" }] },
  ],
});
found.after = [text(after), after.stop_reason];

console.log(JSON.stringify(found));
