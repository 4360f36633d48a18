"""pydantic-ai: three methods of structured output, and an agent with a tool."""

import json
import os

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    name: str
    people: int


provider = OpenAIProvider(base_url=os.environ["URL"] + "/v1", api_key="none")
model = OpenAIChatModel(os.environ["MODEL"], provider=provider)
found = {}
for way in (ToolOutput, NativeOutput, PromptedOutput):
    agent = Agent(model, output_type=way(City), retries=0)
    found[way.__name__] = agent.run_sync("Describe the city.").output.model_dump()

agent = Agent(model, instructions="Use the tool.", retries=0)
measured = found["measured"] = []


@agent.tool_plain
def measure(city: str) -> str:
    """Measure the temperature of a city."""
    measured.append(city)
    return "21 degrees"


found["after"] = agent.run_sync("How warm is it?").output
print(json.dumps(found))
