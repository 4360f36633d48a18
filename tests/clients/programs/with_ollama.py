"""Ollama's Python client: chat, a stream, a format, a tool round trip, the lists."""

import json
import os

import ollama
from pydantic import BaseModel


class City(BaseModel):
    name: str
    people: int


def measure(city: str) -> str:
    """Measure the temperature of a city.

    Args:
        city: The city.
    """
    return "21 degrees"


client = ollama.Client(host=os.environ["URL"])
model = os.environ["MODEL"]


def user(text):
    return [{"role": "user", "content": text}]


found = {"text": client.chat(model, user("Hello")).message.content}
pieces = client.chat(model, user("Hello"), stream=True)
found["stream"] = "".join(piece.message.content or "" for piece in pieces)
found["generated"] = client.generate(model, "Hello").response
answer = client.chat(model, user("Describe the city."), format=City.model_json_schema())
found["object"] = json.loads(answer.message.content)
messages = user("How warm is it?")
called = client.chat(model, messages, tools=[measure]).message
found["called"] = [[c.function.name, dict(c.function.arguments)] for c in called.tool_calls]
messages += [called, {"role": "tool", "tool_name": "measure", "content": "21 degrees"}]
found["after"] = client.chat(model, messages, tools=[measure]).message.content
found["listed"] = [one.model for one in client.list().models]
found["running"] = [one.model for one in client.ps().models]
print(json.dumps(found))
