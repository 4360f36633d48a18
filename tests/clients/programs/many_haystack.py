"""Haystack with three APIs: chat, a stream, structured output, an agent with a tool."""

import json
import os

from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from haystack_integrations.components.generators.anthropic import AnthropicChatGenerator
from haystack_integrations.components.generators.ollama import OllamaChatGenerator
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


url, model = os.environ["URL"], os.environ["MODEL"]
os.environ["ANTHROPIC_BASE_URL"] = url
key = {"api_key": Secret.from_token("none"), "model": model}
makers = {
    "chat": lambda **more: OpenAIChatGenerator(api_base_url=f"{url}/v1", **key, **more),
    "messages": lambda **more: AnthropicChatGenerator(**key, **more),
    "ollama": lambda **more: OllamaChatGenerator(url=url, model=model, **more),
}
measure = Tool(
    name="measure",
    description="Measure the temperature of a city.",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
    function=lambda city: f"21 degrees in {city}",
)


def text(generator, asked: str) -> str:
    return generator.run([ChatMessage.from_user(asked)])["replies"][0].text


found = {}
for name, make in makers.items():
    one = found[name] = {"text": text(make(), "Hello")}
    pieces = []
    text(make(streaming_callback=lambda piece, kept=pieces: kept.append(piece.content)), "Hello")
    one["stream"] = "".join(pieces)
    agent = Agent(chat_generator=make(), tools=[measure])
    one["after"] = agent.run([ChatMessage.from_user("How warm is it?")])["messages"][-1].text
strict = makers["chat"](generation_kwargs={"response_format": City})
found["chat"]["object"] = json.loads(text(strict, "Describe the city."))
print(json.dumps(found))
