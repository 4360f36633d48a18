"""OpenAI's Python client: text, a stream, structured output, strict and forced tools."""

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
model = os.environ["MODEL"]


def asked(text):
    return {"model": model, "messages": [{"role": "user", "content": text}]}


found = {"text": client.chat.completions.create(**asked("Hello")).choices[0].message.content}

pieces = client.chat.completions.create(**asked("Hello"), stream=True)
found["stream"] = "".join(piece.choices[0].delta.content or "" for piece in pieces)

parsed = client.chat.completions.parse(**asked("Describe the city."), response_format=City)
found["parsed"] = parsed.choices[0].message.parsed.model_dump()

with client.chat.completions.stream(**asked("Describe the city."), response_format=City) as stream:
    final = stream.get_final_completion()
found["streamed"] = final.choices[0].message.parsed.model_dump()

tool = openai.pydantic_function_tool(Measure, name="measure", description="Measure a city.")
for name, choice in (
    ("offered", "auto"),
    ("required", "required"),
    ("named", {"type": "function", "function": {"name": "measure"}}),
):
    answer = client.chat.completions.parse(
        **asked("How warm is it?"), tools=[tool], tool_choice=choice
    )
    message = answer.choices[0].message
    found[name] = message.tool_calls[0].function.parsed_arguments.model_dump()

messages = [
    {"role": "user", "content": "How warm is it?"},
    message.model_dump(exclude_none=True),
    {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21 degrees"},
]
last = client.chat.completions.create(model=model, messages=messages, tools=[tool])
found["after"] = last.choices[0].message.content
found["finish_reason"] = last.choices[0].finish_reason

print(json.dumps(found))
