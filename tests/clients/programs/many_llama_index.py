"""llama-index with Ollama's API: chat, a stream, structured prediction, an agent."""

import asyncio
import json
import os

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


def measure(city: str) -> str:
    """Measure the temperature of a city."""
    return "21 degrees"


llm = Ollama(model=os.environ["MODEL"], base_url=os.environ["URL"], request_timeout=60)


async def main() -> str:
    agent = FunctionAgent(tools=[measure], llm=llm, system_prompt="Use the tool.")
    return str(await agent.run("How warm is it?"))


one = {"text": llm.complete("Hello").text}
one["stream"] = "".join(piece.delta or "" for piece in llm.stream_complete("Hello"))
one["object"] = llm.structured_predict(City, PromptTemplate("Describe the city.")).model_dump()
one["after"] = asyncio.run(main())
print(json.dumps({"ollama": one}))
