"""Structured output from a real daemon, with the official client and plain HTTP."""

import json
from typing import Any, Literal

import openai
import pydantic

from tests.conftest import QUESTIONS
from tests.support import Daemon

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Pet(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=40)
    kind: Literal["cat", "dog"]
    friends: list[str] = pydantic.Field(max_length=2)


def body(**keys: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    return {"model": QUESTIONS, "messages": messages, "temperature": 0, "max_tokens": 300} | keys


def test_the_official_client_parses_a_response_into_a_class(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(**body(response_format=Pet))
    assert isinstance(answer.choices[0].message.parsed, Pet)
    with client.chat.completions.stream(**body(response_format=Pet)) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == answer.choices[0].message.parsed


def test_the_official_client_receives_the_call_that_it_forces(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Pet, name="adopt", description="Adopt a pet.")
    forced: Any = {"type": "function", "function": {"name": "adopt"}}
    for choice in (forced, "required"):
        answer = client.chat.completions.parse(**body(tools=[tool], tool_choice=choice))
        calls = answer.choices[0].message.tool_calls or []
        assert len(calls) == 1
        call = calls[0]
        assert isinstance(call.function.parsed_arguments, Pet)
        assert answer.choices[0].finish_reason == "tool_calls"


def test_schema_keys_of_other_servers_take_effect(taught: Daemon) -> None:
    for keys, found in (
        ({"structured_outputs": {"choice": ["Paris", "Rome"]}}, ("Paris", "Rome")),
        ({"guided_regex": "Par(is)?"}, ("Par", "Paris")),
        ({"grammar": 'root ::= "yes" | "no"'}, ("yes", "no")),
    ):
        status, answer = taught.request("POST", CHAT, body(**keys))
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"] in found
    text = {"model": QUESTIONS, "prompt": "x", "json_schema": {"enum": [1, 2]}, "max_tokens": 20}
    status, answer = taught.request("POST", TEXT, text)
    assert json.loads(answer["choices"][0]["text"]) in (1, 2)


def test_an_unenforceable_schema_is_refused_by_its_keyword(taught: Daemon) -> None:
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    status, answer = taught.request("POST", CHAT, body(response_format=form))
    assert (status, answer["error"]["param"]) == (400, "response_format")
    assert "uniqueItems" in answer["error"]["message"]


def test_a_hostile_schema_affects_only_its_own_request(taught: Daemon) -> None:
    deep: Any = {"type": "string"}
    for _ in range(120):
        deep = {"anyOf": [deep, {"type": "array", "items": deep}]} if _ < 16 else {"items": deep}
    for schema in (
        deep,
        {"type": "string", "pattern": "(a|aa)+" * 200 + "{50,9999}"},
        {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
        {"enum": [str(number) for number in range(20_000)]},
        {"type": "object", "properties": {f"p{number}": {} for number in range(1000)}},
    ):
        keys = {"json_schema": schema, "max_tokens": 5}
        status, answer = taught.request("POST", CHAT, body(**keys))
        assert status in (200, 400), answer
        status, answer = taught.request("POST", CHAT, body(guided_choice=["fine"]))
        assert answer["choices"][0]["message"]["content"] == "fine"


def test_a_constrained_request_reuses_a_kept_prompt(taught: Daemon) -> None:
    messages = [{"role": "user", "content": "What is the capital of Peru? " * 10}]
    cached = []
    for _ in range(2):
        keys = {"messages": messages, "guided_choice": ["Lima"]}
        status, answer = taught.request("POST", CHAT, body(**keys))
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"] == "Lima"
        cached.append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached[0] < cached[1]
