"""OpenAI's agent framework with the Responses API, its default."""

import asyncio
import json
import os

import openai
from agents import Agent, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel


class City(BaseModel):
    name: str
    people: int


set_tracing_disabled(True)
client = openai.AsyncOpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", max_retries=0)
model = OpenAIResponsesModel(model=os.environ["MODEL"], openai_client=client)
found = {"measured": []}


@function_tool
def measure(city: str) -> str:
    """Measure the temperature of a city."""
    found["measured"].append(city)
    return "21 degrees"


async def main() -> None:
    plain = Agent(name="Plain", model=model)
    found["text"] = (await Runner.run(plain, "Hello")).final_output
    streamed = Runner.run_streamed(plain, "Hello")
    found["stream"] = ""
    async for event in streamed.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            found["stream"] += event.data.delta
    typed = Agent(name="Typed", model=model, output_type=City)
    found["parsed"] = (await Runner.run(typed, "Describe the city.")).final_output.model_dump()
    able = Agent(name="Able", model=model, tools=[measure])
    found["after"] = (await Runner.run(able, "How warm is it?")).final_output


asyncio.run(main())
print(json.dumps(found))
