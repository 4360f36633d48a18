"""agno with five APIs: chat, a stream, structured output, an agent with a tool."""

import json
import os

from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.models.lmstudio import LMStudio
from agno.models.ollama import Ollama
from agno.models.openai import OpenAIResponses
from agno.models.openai.like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


def measure(city: str) -> str:
    """Measure the temperature of a city."""
    return "21 degrees"


url, model = os.environ["URL"], os.environ["MODEL"]
v1 = {"base_url": f"{url}/v1", "api_key": "none"}
models = {
    "chat": lambda: OpenAILike(id=model, **v1),
    "lmstudio": lambda: LMStudio(id=model, **v1),
    "responses": lambda: OpenAIResponses(id=model, **v1),
    "messages": lambda: Claude(id=model, api_key="none", client_params={"base_url": url}),
    "ollama": lambda: Ollama(id=model, host=url),
}
found = {}
for name, make in models.items():
    one = found[name] = {"text": Agent(model=make()).run("Hello").content}
    pieces = Agent(model=make()).run("Hello", stream=True)
    one["stream"] = "".join(piece.content or "" for piece in pieces)
    answer = Agent(model=make(), output_schema=City).run("Describe the city.")
    one["object"] = answer.content.model_dump()
    one["after"] = Agent(model=make(), tools=[measure]).run("How warm is it?").content
print(json.dumps(found))
