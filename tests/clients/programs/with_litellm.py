"""litellm: chat, a stream, structured output and tools."""

import json
import os

import litellm
from pydantic import BaseModel


class City(BaseModel):
    name: str
    people: int


litellm.drop_params = False
more = {
    "model": "openai/" + os.environ["MODEL"],
    "api_base": os.environ["URL"] + "/v1",
    "api_key": "none",
    "max_retries": 0,
}


def user(text):
    return [{"role": "user", "content": text}]


answer = litellm.completion(messages=user("Hello"), **more)
found = {"text": answer.choices[0].message.content}
pieces = litellm.completion(messages=user("Hello"), stream=True, **more)
found["stream"] = "".join(piece.choices[0].delta.content or "" for piece in pieces)
answer = litellm.completion(messages=user("Describe the city."), response_format=City, **more)
found["parsed"] = json.loads(answer.choices[0].message.content)
tool = {
    "type": "function",
    "function": {
        "name": "measure",
        "description": "Measure the temperature of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
messages = user("How warm is it?")
called = litellm.completion(messages=messages, tools=[tool], **more).choices[0].message
call = called.tool_calls[0]
found["called"] = [call.function.name, json.loads(call.function.arguments)]
messages += [
    called.model_dump(),
    {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"},
]
last = litellm.completion(messages=messages, tools=[tool], **more)
found["after"] = last.choices[0].message.content
print(json.dumps(found))
