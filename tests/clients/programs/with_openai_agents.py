"""OpenAI's agent framework: a tool, then a typed output."""

import json
import os

import openai
from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel


class Weather(BaseModel):
    city: str
    degrees: int


set_tracing_disabled(True)
client = openai.AsyncOpenAI(base_url=os.environ["URL"] + "/v1", api_key="none", max_retries=0)
model = OpenAIChatCompletionsModel(model=os.environ["MODEL"], openai_client=client)
measured = []


@function_tool
def measure(city: str) -> str:
    """Measure the temperature of a city."""
    measured.append(city)
    return "21 degrees"


agent = Agent(name="Weather", instructions="Use the tool.", model=model, tools=[measure])
found = {"after": Runner.run_sync(agent, "How warm is it?").final_output}
typed = Agent(
    name="Typed", instructions="Type it.", model=model, tools=[measure], output_type=Weather
)
found["typed"] = Runner.run_sync(typed, "How warm is it?").final_output.model_dump()
found["measured"] = measured
print(json.dumps(found))
