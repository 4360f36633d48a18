// Ollama's client for Node: chat, a stream, a format, a tool round trip, the lists.
import { Ollama } from "ollama";

const client = new Ollama({ host: process.env.URL });
const model = process.env.MODEL;
const ask = (content) => ({ model, messages: [{ role: "user", content }] });
const found = {};

found.text = (await client.chat(ask("Hello"))).message.content;
found.stream = "";
for await (const part of await client.chat({ ...ask("Hello"), stream: true })) {
  found.stream += part.message.content;
}
found.generated = (await client.generate({ model, prompt: "Hello" })).response;
const format = {
  type: "object",
  properties: { name: { type: "string" }, people: { type: "integer" } },
  required: ["name", "people"],
};
const described = await client.chat({ ...ask("Describe the city."), format });
found.object = JSON.parse(described.message.content);

const tools = [
  {
    type: "function",
    function: {
      name: "measure",
      description: "Measure the temperature of a city.",
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  },
];
const called = (await client.chat({ ...ask("How warm is it?"), tools })).message;
found.called = called.tool_calls.map((call) => [call.function.name, call.function.arguments]);
const after = await client.chat({
  ...ask("How warm is it?"),
  tools,
  messages: [
    ...ask("How warm is it?").messages,
    called,
    { role: "tool", tool_name: "measure", content: "21 degrees" },
  ],
});
found.after = after.message.content;
found.listed = (await client.list()).models.map((one) => one.name);
found.running = (await client.ps()).models.map((one) => one.name);

console.log(JSON.stringify(found));
