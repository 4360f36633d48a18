"""`/v1/responses` of a real daemon, with the official client and its types."""

import json
from itertools import pairwise
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from tests.conftest import QUESTIONS
from tests.strictly import strictly
from tests.support import Daemon

ROUTE = "/v1/responses"

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


class Pet(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=40)
    kind: Literal["cat", "dog"]


def body(words: Any = "What is the capital of France?", **keys: Any) -> dict[str, Any]:
    return {"model": QUESTIONS, "input": words, "temperature": 0} | keys


def ask(daemon: Daemon, words: Any = "What is the capital of France?", **keys: Any) -> Any:
    """A response, validated against the client's type."""
    status, answer = daemon.request("POST", ROUTE, body(words, **keys))
    assert status == 200, answer
    assert answer["store"] is False
    return strictly(Response, answer)


def events(daemon: Daemon, words: Any = "What is the capital of France?", **keys: Any) -> Any:
    """The events of a stream, each validated against the client's type."""
    found = []
    with daemon.stream(ROUTE, body(words, **keys) | {"stream": True}) as reply:
        for block in reply.read().decode().split("\n\n"):
            if block and not block.startswith(":"):
                kind, data = block.split("\n")
                event = json.loads(data.removeprefix("data: "))
                assert kind == f"event: {event['type']}"
                found.append(strictly(ResponseStreamEvent, event))
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found


def kinds(stream: Any) -> list[str]:
    """Event types of a stream; repeats in a row are merged."""
    names = [event.type.removeprefix("response.") for event in stream]
    return [names[0], *(b for a, b in pairwise(names) if a != b)]


def test_text_is_answered(taught: Daemon) -> None:
    answer = ask(taught, instructions="Be brief.", metadata={"a": "b"}, user="me")
    assert answer.output_text == "The capital of France is Paris."
    assert (answer.status, answer.instructions, answer.metadata, answer.user) == (
        *("completed", "Be brief.", {"a": "b"}, "me"),
    )
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    again = ask(taught, instructions="Be brief.").usage
    assert again.input_tokens_details.cached_tokens > 0


def test_a_stream_has_every_event_in_order(taught: Daemon) -> None:
    stream = events(taught)
    assert kinds(stream) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    final = stream[-1].response
    assert text == final.output_text == "The capital of France is Paris."
    assert len({stream[0].response.id, stream[1].response.id, final.id}) == 1
    assert stream[-2].item == final.output[0]


def test_reasoning_is_a_separate_item_with_a_summary_if_requested(taught: Daemon) -> None:
    for summary in (None, "auto"):
        asked = {"reasoning": {"effort": "high", "summary": summary}}
        stream = events(taught, **asked)
        found = kinds(stream)
        assert ("reasoning_summary_part.added" in found) is bool(summary)
        assert found.index("reasoning_text.done") < found.index("output_text.delta")
        thought, message = stream[-1].response.output
        assert (thought.type, message.type) == ("reasoning", "message")
        assert thought.content[0].text == "The capital of France."
        assert [part.text for part in thought.summary] == (
            [thought.content[0].text] if summary else []
        )
        assert stream[-1].response.usage.output_tokens_details.reasoning_tokens > 0
        whole = ask(taught, **asked)
        assert [item.type for item in whole.output] == ["reasoning", "message"]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_tool_round_trip_works_with_the_official_client(
    client: openai.OpenAI, streamed: bool
) -> None:
    asked: dict[str, Any] = {"model": QUESTIONS, "temperature": 0, "tools": [WEATHER]}
    history: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]

    def answered() -> Any:
        if not streamed:
            return client.responses.create(input=history, **asked)
        with client.responses.stream(input=history, **asked) as stream:
            return stream.get_final_response()

    answer = answered()
    (call,) = answer.output
    assert (call.type, call.name) == ("function_call", "weather")
    assert json.loads(call.arguments) == {"city": "Paris"}
    history += answer.output
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "rainy"})
    assert answered().output_text == "It is rainy in Paris."


def test_a_stream_has_a_tool_call_in_one_piece(taught: Daemon) -> None:
    stream = events(taught, "What is the weather in Rome?", tools=[WEATHER])
    assert kinds(stream) == [
        *("created", "in_progress", "output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "completed"),
    ]
    added, delta, done, item = stream[2:6]
    assert (added.item.status, added.item.arguments, item.item.status) == (
        *("in_progress", "", "completed"),
    )
    assert delta.delta == done.arguments == item.item.arguments
    assert stream[-1].response.tools[0].name == "weather"


def test_the_official_client_parses_a_response_into_a_class(client: openai.OpenAI) -> None:
    asked = body(text_format=Pet)
    answer = client.responses.parse(**asked)
    assert isinstance(answer.output_parsed, Pet)
    with client.responses.stream(**asked) as stream:
        assert stream.get_final_response().output_parsed == answer.output_parsed


def test_a_json_object_and_a_forced_tool_call_are_returned(taught: Daemon) -> None:
    answer = ask(taught, text={"format": {"type": "json_object"}}, max_output_tokens=30)
    if answer.status == "completed":
        assert isinstance(json.loads(answer.output_text), dict)
    else:
        assert answer.output_text.lstrip().startswith("{")
    city = {"type": "string", "enum": ["Rome", "Oslo"]}
    parameters = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    forced = WEATHER | {"parameters": parameters}
    named = {"type": "function", "name": "weather"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [named]}
    for choice in ("required", named, allowed):
        answer = ask(taught, tools=[forced], tool_choice=choice)
        (call,) = answer.output
        assert call.type == "function_call"
        assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")


def test_a_truncated_response_is_incomplete(taught: Daemon) -> None:
    answer = ask(taught, max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"
    assert answer.max_output_tokens == 2
    assert kinds(events(taught, max_output_tokens=2))[-1] == "incomplete"


def test_log_probabilities_are_returned(taught: Daemon) -> None:
    stream = events(taught, top_logprobs=2, include=["message.output_text.logprobs"])
    deltas = [event for event in stream if event.type == "response.output_text.delta"]
    part = stream[-1].response.output[0].content[0]
    tokens = [token for delta in deltas for token in delta.logprobs]
    assert "".join(token.token for token in tokens) == part.text
    assert [token.logprob for token in part.logprobs] == [token.logprob for token in tokens]
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)


def test_a_custom_tool_receives_text(taught: Daemon) -> None:
    tool = {"type": "custom", "name": "weather", "description": "The weather in a city."}
    choice = {"type": "custom", "name": "weather"}
    asked: Any = {"tools": [tool], "tool_choice": choice, "max_output_tokens": 60}
    stream = events(taught, "What is the weather in Rome?", **asked)
    calls = [item for item in stream[-1].response.output if item.type == "custom_tool_call"]
    if stream[-1].type == "response.completed":
        (call,) = calls
        assert call.name == "weather"
        history = [
            {"role": "user", "content": "What is the weather in Rome?"},
            call.model_dump(exclude_none=True),
            {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "rainy"},
        ]
        assert ask(taught, history, tools=[tool]).status == "completed"


@pytest.mark.parametrize(
    ("keys", "param", "word"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "stored"),
        ({"conversation": "conv_1"}, "conversation", "stored"),
        ({"background": True}, "background", "stored"),
        ({"prompt": {"id": "p"}}, "prompt", "stored"),
        ({"input": None}, "input", "missing"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0]", "text"),
        ({"input": "word " * 100_000}, "input", "context length"),
        ({"max_output_tokens": 0}, "max_output_tokens", ">= 1"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format", "schema"),
        ({"temperature": 3}, "temperature", "<= 2"),
    ],
)
def test_unsupported_input_is_refused_by_the_key_that_was_sent(
    taught: Daemon, keys: dict[str, Any], param: str, word: str
) -> None:
    for stream in (False, True):
        status, answer = taught.request("POST", ROUTE, body() | keys | {"stream": stream})
        error = answer["error"]
        assert status == 400, answer
        assert error["param"].startswith(param)
        assert word in error["message"]


def test_an_unenforceable_schema_is_refused_under_the_clients_own_key(
    taught: Daemon,
) -> None:
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    form = {"type": "json_schema", "name": "a", "schema": schema, "strict": True}
    status, answer = taught.request("POST", ROUTE, body(text={"format": form}))
    error = answer["error"]
    assert (status, error["param"]) == (400, "text.format")
    assert error["message"].startswith("text.format cannot be enforced")
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    tools = [{"type": "web_search"}, WEATHER | {"parameters": parameters, "strict": True}]
    status, answer = taught.request("POST", ROUTE, body(tools=tools))
    error = answer["error"]
    assert (status, error["param"]) == (400, "tools[1].parameters")
    assert "uniqueItems" in error["message"]


def test_nothing_is_stored(client: openai.OpenAI, taught: Daemon) -> None:
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError, match="not stored"):
            call("resp_1")
    status, answer = taught.request("GET", ROUTE)
    assert (status, answer["error"]["code"]) == (405, "method_not_allowed")
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    status, answer = taught.request("GET", ROUTE, headers=upgrade)
    assert (status, answer["error"]["code"]) == (426, "not_supported")


def test_the_length_of_a_prompt_is_counted_without_a_response(
    client: openai.OpenAI, taught: Daemon
) -> None:
    asked: Any = {"input": "What is the weather in Rome?", "tools": [WEATHER]}
    counted = client.responses.input_tokens.count(model=QUESTIONS, **asked)
    assert strictly(type(counted), counted.model_dump()).input_tokens == (
        ask(taught, asked["input"], tools=[WEATHER]).usage.input_tokens
    )
    with pytest.raises(openai.BadRequestError, match="compaction is not supported"):
        client.responses.compact(model=QUESTIONS, input="x")


def test_ignored_keys_are_listed_in_the_warnings(taught: Daemon) -> None:
    asked = body(
        tools=[{"type": "web_search"}, WEATHER],
        store=True,
        text={"verbosity": "low"},
        truncation="auto",
        reasoning={"effort": "low", "mode": "pro"},
        include=["reasoning.encrypted_content", "moon"],
        client_metadata={"a": "b"},
        temprature=1,
    )
    status, answer = taught.request("POST", ROUTE, asked)
    assert status == 200
    starts = [warning.partition(":")[0] for warning in answer["warnings"]]
    assert starts == [
        *("tools[0]", "text.verbosity", "reasoning.mode", "include", "truncation", "store"),
        "temprature",
    ]
    with taught.stream(ROUTE, asked | {"stream": True}) as reply:
        first = reply.read().decode().split("\n\n")[0]
    assert json.loads(first.partition("data: ")[2])["response"]["warnings"] == answer["warnings"]


def test_an_unknown_model_is_a_client_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="nobody/nothing", input="x")
