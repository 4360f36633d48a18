"""OpenAI's Python client with the Responses API: text, a stream, a class and a tool round trip."""

import json
import os

import openai
from pydantic import BaseModel


class City(BaseModel):
    name: str
    people: int


class Measure(BaseModel):
    city: str


client = openai.OpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", max_retries=0)
responses, model = client.responses, os.environ["MODEL"]

found = {"text": responses.create(model=model, input="Hello").output_text}
with responses.stream(model=model, input="Hello") as stream:
    found["stream"] = "".join(e.delta for e in stream if e.type == "response.output_text.delta")

parsed = responses.parse(model=model, input="Describe the city.", text_format=City)
found["parsed"] = parsed.output_parsed.model_dump()

tools = [openai.pydantic_function_tool(Measure, name="measure", description="Measure a city.")]
tools = [{"type": "function", **tool["function"]} for tool in tools]
history = [{"role": "user", "content": "How warm is it?"}]
with responses.stream(model=model, input=history, tools=tools) as stream:
    answer = stream.get_final_response()
history += answer.output
found["measured"] = []
for item in answer.output:
    if item.type == "function_call":
        found["measured"].append(item.parsed_arguments["city"])
        history.append(
            {"type": "function_call_output", "call_id": item.call_id, "output": "21 degrees"}
        )
found["after"] = responses.create(model=model, input=history, tools=tools).output_text
print(json.dumps(found))
