// Anthropic's SDK for Node: a message, streams with helpers, tools, a count, the models.
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.URL, apiKey: "none", maxRetries: 0 });
const model = process.env.MODEL;
const ask = (content, more = {}) => ({
  model,
  max_tokens: 500,
  messages: [{ role: "user", content }],
  ...more,
});
const textOf = (message) =>
  message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

const text = textOf(await client.messages.create(ask("Hello")));

let streamed = "";
const kinds = new Set();
const stream = client.messages
  .stream(ask("Think first"))
  .on("text", (delta) => (streamed += delta))
  .on("streamEvent", (event) => kinds.add(event.type));
const final = await stream.finalMessage();
const thinking = final.content.find((block) => block.type === "thinking");

const measured = [];
const tool = {
  name: "measure",
  description: "Measure the temperature in a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const called = await client.messages.stream(ask("How warm is it?", { tools: [tool] })).finalMessage();
const use = called.content.find((block) => block.type === "tool_use");
measured.push(use.input.city);
const after = await client.messages.create({
  model,
  max_tokens: 500,
  tools: [tool],
  messages: [
    { role: "user", content: "How warm is it?" },
    { role: "assistant", content: called.content },
    { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "21 degrees" }] },
  ],
});

const count = await client.messages.countTokens({
  model,
  messages: [{ role: "user", content: "Hello" }],
});

const models = [];
for await (const one of client.models.list()) models.push(one.id);

let refused = "";
try {
  await client.messages.create({ ...ask("Hello"), model: "no/such" });
} catch (error) {
  refused = `${error.constructor.name} ${error.status}`;
}

console.log(
  JSON.stringify({
    text,
    streamed,
    thinking: thinking?.thinking,
    kinds: [...kinds].sort(),
    stops: [final.stop_reason, called.stop_reason, after.stop_reason],
    measured,
    after: textOf(after),
    count: count.input_tokens,
    models,
    refused,
  }),
);
