// OpenAI's client for Node, with the Responses API.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.URL}/v1`, apiKey: "none", maxRetries: 0 });
const model = process.env.MODEL;
const found = { measured: [] };

found.text = (await client.responses.create({ model, input: "Hello" })).output_text;

found.stream = "";
for await (const event of client.responses.stream({ model, input: "Hello" })) {
  if (event.type === "response.output_text.delta") found.stream += event.delta;
}

const schema = {
  type: "object",
  properties: { name: { type: "string" }, people: { type: "integer" } },
  required: ["name", "people"],
  additionalProperties: false,
};
const format = { type: "json_schema", name: "city", strict: true, schema };
const parsed = await client.responses.parse({
  model,
  input: "Describe the city.",
  text: { format },
});
found.parsed = parsed.output_parsed;

const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", name: "measure", parameters, strict: false }];
const input = [{ role: "user", content: "How warm is it?" }];
const called = await client.responses.stream({ model, input, tools }).finalResponse();
for (const item of called.output) {
  input.push(item);
  if (item.type === "function_call") {
    found.measured.push(JSON.parse(item.arguments).city);
    input.push({ type: "function_call_output", call_id: item.call_id, output: "21 degrees" });
  }
}
found.after = (await client.responses.create({ model, input, tools })).output_text;

console.log(JSON.stringify(found));
