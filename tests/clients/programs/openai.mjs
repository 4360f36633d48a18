// OpenAI's client for Node: text, a stream, structured output and a tool round trip.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.URL}/v1`, apiKey: "none", maxRetries: 0 });
const model = process.env.MODEL;
const ask = (content) => ({ model, messages: [{ role: "user", content }] });
const found = {};

found.text = (await client.chat.completions.create(ask("Hello"))).choices[0].message.content;

found.stream = "";
for await (const chunk of await client.chat.completions.create({ ...ask("Hello"), stream: true })) {
  found.stream += chunk.choices[0]?.delta?.content ?? "";
}

const schema = {
  type: "object",
  properties: { name: { type: "string" }, people: { type: "integer" } },
  required: ["name", "people"],
  additionalProperties: false,
};
const parsed = await client.chat.completions.parse({
  ...ask("Describe the city."),
  response_format: { type: "json_schema", json_schema: { name: "city", strict: true, schema } },
});
found.parsed = parsed.choices[0].message.parsed;

found.measured = [];
const runner = client.chat.completions.runTools({
  ...ask("How warm is it?"),
  tools: [
    {
      type: "function",
      function: {
        name: "measure",
        description: "Measure the temperature of a city.",
        parameters: { type: "object", properties: { city: { type: "string" } } },
        parse: JSON.parse,
        function: ({ city }) => {
          found.measured.push(city);
          return "21 degrees";
        },
      },
    },
  ],
});
found.after = await runner.finalContent();

console.log(JSON.stringify(found));
