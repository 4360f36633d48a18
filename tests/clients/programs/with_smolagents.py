"""smolagents: an agent that calls tools until it calls `final_answer`."""

import json
import os

from smolagents import OpenAIModel, ToolCallingAgent, tool

measured = []


@tool
def measure(city: str) -> str:
    """Measure the temperature of a city.

    Args:
        city: The city.
    """
    measured.append(city)
    return "21 degrees"


model = OpenAIModel(os.environ["MODEL"], api_base=os.environ["URL"] + "/v1", api_key="none")
agent = ToolCallingAgent(tools=[measure], model=model, max_steps=4, verbosity_level=0)
answer = agent.run("How warm is it?")
print(json.dumps({"answer": answer, "measured": measured, "steps": len(agent.memory.steps)}))
