"""pydantic-ai with the Responses API."""

import asyncio
import json
import os

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class City(BaseModel):
    name: str
    people: int


provider = OpenAIProvider(base_url=os.environ["URL"] + "/v1", api_key="none")
model = OpenAIResponsesModel(os.environ["MODEL"], provider=provider)
found = {"measured": []}


async def main() -> None:
    plain = Agent(model, retries=0)
    found["text"] = (await plain.run("Hello")).output
    async with plain.run_stream("Hello") as streamed:
        found["stream"] = "".join([piece async for piece in streamed.stream_text(delta=True)])
    typed = Agent(model, output_type=NativeOutput(City), retries=0)
    found["parsed"] = (await typed.run("Describe the city.")).output.model_dump()
    able = Agent(model, retries=0)

    @able.tool_plain
    def measure(city: str) -> str:
        """Measure the temperature of a city."""
        found["measured"].append(city)
        return "21 degrees"

    found["after"] = (await able.run("How warm is it?")).output


asyncio.run(main())
print(json.dumps(found))
