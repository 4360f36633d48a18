"""LangChain with the Responses API."""

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
    base_url=os.environ["URL"] + "/v1",
    api_key="none",
    model=os.environ["MODEL"],
    max_retries=0,
    use_responses_api=True,
)
found = {"text": chat.invoke("Hello").text}
found["stream"] = "".join(piece.text for piece in chat.stream("Hello"))
structured = chat.with_structured_output(City, method="json_schema")
found["parsed"] = structured.invoke("Describe the city.").model_dump()
able = chat.bind_tools([measure])
messages = [HumanMessage("How warm is it?")]
called = able.invoke(messages)
messages += [called]
for call in called.tool_calls:
    messages.append(ToolMessage(measure.invoke(call["args"]), tool_call_id=call["id"]))
found["measured"] = [call["args"]["city"] for call in called.tool_calls]
found["after"] = able.invoke(messages).text
print(json.dumps(found))
