"""Anthropic's Python client: a message, a stream and a tool round trip."""

import json
import os

import anthropic

client = anthropic.Anthropic(base_url=os.environ["URL"], api_key="none", max_retries=0)
more = {"model": os.environ["MODEL"], "max_tokens": 500}


def user(text):
    return [{"role": "user", "content": text}]


def text(message):
    return "".join(block.text for block in message.content if block.type == "text")


found = {"text": text(client.messages.create(messages=user("Hello"), **more))}
with client.messages.stream(messages=user("Hello"), **more) as stream:
    found["stream"] = "".join(stream.text_stream)
    found["final"] = text(stream.get_final_message())
counted = client.messages.count_tokens(messages=user("Hello"), model=more["model"])
found["counted"] = counted.input_tokens
tool = {
    "name": "measure",
    "description": "Measure the temperature of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
messages = user("How warm is it?")
called = client.messages.create(messages=messages, tools=[tool], **more)
use = next(block for block in called.content if block.type == "tool_use")
found["called"] = [use.name, use.input, called.stop_reason]
result = {"type": "tool_result", "tool_use_id": use.id, "content": "21 degrees"}
messages += [
    {"role": "assistant", "content": called.content},
    {"role": "user", "content": [result]},
]
after = client.messages.create(messages=messages, tools=[tool], **more)
found["after"] = [text(after), after.stop_reason]
print(json.dumps(found))
