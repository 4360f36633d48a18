"""LangChain: three methods of structured output, tools and a stream."""

import json
import os

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str
    people: int


@tool
def measure(city: str) -> str:
    """Measure the temperature of a city."""
    return "21 degrees"


chat = ChatOpenAI(
    base_url=os.environ["URL"] + "/v1", api_key="none", model=os.environ["MODEL"], max_retries=0
)
found = {"text": chat.invoke("Hello").content}
found["stream"] = "".join(piece.content for piece in chat.stream("Hello"))
for method in ("function_calling", "json_mode", "json_schema"):
    structured = chat.with_structured_output(City, method=method, include_raw=True)
    answer = structured.invoke("Describe the city. Answer in JSON with the keys name and people.")
    assert answer["parsing_error"] is None, answer
    found[method] = answer["parsed"].model_dump()

able = chat.bind_tools([measure])
messages = [HumanMessage("How warm is it?")]
called = able.invoke(messages)
messages += [called]
for call in called.tool_calls:
    messages.append(ToolMessage(measure.invoke(call["args"]), tool_call_id=call["id"]))
found["called"] = [[call["name"], call["args"]] for call in called.tool_calls]
found["after"] = able.invoke(messages).content
print(json.dumps(found))
