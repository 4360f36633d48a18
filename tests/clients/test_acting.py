"""Models that play a role in the client tests."""

import json
from typing import Any

import pytest

from tests.clients import acting
from tests.clients.acting import Rule, call
from tests.clients.harness import acted
from tests.support import Daemon

CHAT = "/v1/chat/completions"
CITY = '{"name": "Paris", "people": 2100000, "twin": "Rome"}'
TOOL = {
    "type": "function",
    "function": {
        "name": "measure",
        "description": "Measure the temperature.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture(scope="module")
def model(shared: Daemon) -> str:
    return acted(
        shared,
        "weather",
        [
            Rule("'21' in result", "It is 21 degrees in Paris, and it is sunny."),
            Rule("'measure' in names", call("measure", city="Paris")),
            Rule("'JSON' in asked", CITY),
            Rule("'think' in asked", "<think>Is it Paris, is it Rome?</think>It is Paris."),
        ],
        otherwise="It is Paris, it is é.",
    )


def ask(daemon: Daemon, model: str, *messages: Any, **more: Any) -> Any:
    status, answer = daemon.request(
        "POST", CHAT, {"model": model, "messages": messages, "temperature": 1} | more
    )
    assert status == 200, answer
    return answer["choices"][0]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_tool_round_trip_ends_by_itself(shared: Daemon, model: str) -> None:
    asked = ask(shared, model, user("How warm is it?"), tools=[TOOL])
    (made,) = asked["message"]["tool_calls"]
    assert asked["finish_reason"] == "tool_calls"
    assert made["function"]["name"] == "measure"
    assert json.loads(made["function"]["arguments"]) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": made["id"], "content": "21 °C"}
    choice = ask(shared, model, user("How warm is it?"), asked["message"], result, tools=[TOOL])
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == "It is 21 degrees in Paris, and it is sunny."


def test_answers_depend_on_the_words_of_the_user(shared: Daemon, model: str) -> None:
    long = "x" * 200_000
    assert ask(shared, model, user(long))["message"]["content"] == "It is Paris, it is é."
    assert ask(shared, model, user("Answer in JSON."))["message"]["content"] == CITY
    form = {"response_format": {"type": "json_object"}}
    assert ask(shared, model, user("JSON"), **form)["message"]["content"] == CITY
    # Forced to call a tool that it would not call otherwise.
    forced = ask(shared, model, user("JSON"), tools=[TOOL], tool_choice="required")
    assert forced["message"]["tool_calls"][0]["function"]["name"] == "measure"
    thought = ask(shared, model, user("think"))["message"]
    assert thought["content"] == "It is Paris."
    assert thought["reasoning_content"] == "Is it Paris, is it Rome?"


def test_the_pieces_of_an_answer_are_unique() -> None:
    answers = ["a b a b a b", "a b", "ab ab ab", '{"a": "a", "b": "a"}', "aa", "aaaa aaaa"]
    pieces = acting._pieces(answers)
    assert ["".join(pieces[answer]) for answer in answers] == answers
    every = [piece for answer in answers for piece in pieces[answer]]
    assert len(every) == len(set(every))
