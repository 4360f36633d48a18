"""llama-index: chat, a stream, structured prediction and tools."""

import asyncio
import json
import os

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


llm = OpenAILike(
    model=os.environ["MODEL"],
    api_base=os.environ["URL"] + "/v1",
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
    max_retries=0,
)
found = {"text": llm.complete("Hello").text}
found["stream"] = "".join(piece.delta or "" for piece in llm.stream_complete("Hello"))
found["predicted"] = llm.structured_predict(City, PromptTemplate("Describe the city.")).model_dump()
measured = found["measured"] = []


def measure(city: str) -> str:
    """Measure the temperature of a city."""
    measured.append(city)
    return "21 degrees"


async def main() -> str:
    agent = FunctionAgent(tools=[measure], llm=llm, system_prompt="Use the tool.")
    return str(await agent.run("How warm is it?"))


found["after"] = asyncio.run(main())
print(json.dumps(found))
