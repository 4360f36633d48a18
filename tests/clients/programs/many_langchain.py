"""LangChain with Anthropic's and Ollama's APIs: chat, a stream, structured output, an agent."""

import json
import os

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_ollama import ChatOllama
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


def measure(city: str) -> str:
    """Measure the temperature of a city."""
    return "21 degrees"


url, model = os.environ["URL"], os.environ["MODEL"]
chats = {
    "messages": ChatAnthropic(base_url=url, api_key="none", model=model, max_retries=0),
    "ollama": ChatOllama(base_url=url, model=model),
}
found = {}
for name, chat in chats.items():
    one = found[name] = {"text": chat.invoke("Hello").content}
    one["stream"] = "".join(piece.text for piece in chat.stream("Hello"))
    structured = chat.with_structured_output(City, method="json_schema")
    one["object"] = structured.invoke("Describe the city.").model_dump()
    asked = {"messages": [("user", "How warm is it?")]}
    one["after"] = create_agent(chat, [measure]).invoke(asked)["messages"][-1].content
print(json.dumps(found))
