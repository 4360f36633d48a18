"""Test the output items of a response, and their events in OpenAI's order."""

from itertools import pairwise
from typing import Any

import pytest
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent

from reconciler.core import response_events
from reconciler.worker.dialects.responses.output import Output
from reconciler.worker.output import Delta
from tests.strictly import strictly


def call(name: str = "f", arguments: str = '{"x": 1}') -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function}


def output_of(
    *deltas: Delta, summarized: bool = False, custom: tuple[str, ...] = (), incomplete: bool = False
) -> tuple[list[Any], list[Any]]:
    """Events and items of an answer, as types of the official client."""
    output = Output(summarized=summarized, custom=custom)
    events = [event for delta in deltas for event in output.feed(delta, [])]
    events += output.end(incomplete=incomplete)
    typed = [
        strictly(ResponseStreamEvent, event | {"sequence_number": number})
        for number, event in enumerate(events)
    ]
    return typed, [strictly(ResponseOutputItem, item) for item in output.items]


def kinds(events: list[Any]) -> list[str]:
    """Types of events, without consecutive repeats."""
    names = [event.type.removeprefix("response.") for event in events]
    return [names[0], *(b for a, b in pairwise(names) if a != b)]


MESSAGE = [
    *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
    *("content_part.done", "output_item.done"),
]
REASONING = [
    *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
    *("content_part.done", "output_item.done"),
]
SUMMARIZED = [
    *("output_item.added", "content_part.added", "reasoning_summary_part.added"),
    *("reasoning_text.delta", "reasoning_summary_text.delta"),
    *("reasoning_text.done", "content_part.done"),
    *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
]
CALL = [
    *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
    "output_item.done",
]
CUSTOM = [
    *("output_item.added", "custom_tool_call_input.delta", "custom_tool_call_input.done"),
    "output_item.done",
]


def test_each_kind_of_part_is_an_item_in_its_order() -> None:
    deltas = (
        Delta(reasoning="I "),
        Delta(reasoning="think"),
        Delta(content="Let me "),
        Delta(content="look."),
        Delta(calls=[call(), call("g")]),
    )
    events, items = output_of(*deltas, custom=("g",))
    assert kinds(events) == [*REASONING, *MESSAGE, *CALL, *CUSTOM]
    assert [item.type for item in items] == [
        *("reasoning", "message", "function_call", "custom_tool_call"),
    ]
    assert [event.output_index for event in events if event.type.endswith("added")] == [
        *(0, 0, 1, 1, 2, 3),
    ]
    assert items[0].content[0].text == "I think"
    assert items[0].summary == []
    assert items[1].content[0].text == "Let me look."
    assert len({item.id for item in items}) == 4
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == items


def test_a_summary_is_the_whole_reasoning() -> None:
    events, (item,) = output_of(Delta(reasoning="why"), summarized=True, incomplete=True)
    assert kinds(events) == SUMMARIZED
    assert item.summary[0].text == item.content[0].text == "why"
    assert item.status == "incomplete"


def test_a_text_after_a_call_is_a_separate_message_without_leading_line_breaks() -> None:
    deltas = (Delta(content="a"), Delta(calls=[call()]), Delta(content="\n\nb"))
    events, items = output_of(*deltas)
    assert kinds(events) == [*MESSAGE, *CALL, *MESSAGE]
    assert [item.content[0].text for item in items if item.type == "message"] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [('{"input": "*** Begin"}', "*** Begin"), ("{}", "{}"), ("[", "["), ('{"input": 3}',) * 2],
)
def test_the_input_of_a_custom_tool_is_taken_from_its_argument(arguments: str, text: str) -> None:
    _, (item,) = output_of(Delta(calls=[call("g", arguments)]), custom=("g",))
    assert item.input == text


def test_an_empty_answer_is_an_empty_message() -> None:
    events, (item,) = output_of(Delta())
    assert kinds(events) == [kind for kind in MESSAGE if kind != "output_text.delta"]
    assert item.content[0].text == ""
    _, items = output_of(Delta(reasoning="why"))
    assert [item.type for item in items] == ["reasoning", "message"]


def test_a_truncated_answer_has_an_incomplete_item() -> None:
    _, items = output_of(Delta(reasoning="why"), Delta(content="a"), incomplete=True)
    assert [item.status for item in items] == ["completed", "incomplete"]
    _, items = output_of(Delta(calls=[call()]), incomplete=True)
    assert [item.status for item in items] == ["completed"]
    _, items = output_of(incomplete=True)
    assert items == []


@pytest.mark.parametrize(
    ("code", "status", "known"),
    [
        ("generation_failed", 500, "server_error"),
        ("invalid_value", 400, "invalid_prompt"),
        ("overloaded", 503, "server_error"),
    ],
)
def test_an_error_in_a_stream_is_two_events(code: str, status: int, known: str) -> None:
    error = {"type": "x", "code": code, "message": "no", "param": "input"}
    response = response_events.begun("resp_1", 0, "m")
    strictly(Response, response)
    first, last = response_events.failure(error, status, response, 7)
    assert first.pop("error") == error  # the client raises an exception for it
    assert strictly(ResponseStreamEvent, first).param == "input"
    failed = strictly(ResponseStreamEvent, last)
    assert (failed.response.status, failed.response.error.code) == ("failed", known)
    assert (first["sequence_number"], failed.sequence_number) == (7, 8)


def test_agents_can_detect_that_a_conversation_is_too_long() -> None:
    error = {"code": "context_length_exceeded", "message": "no"}
    _, last = response_events.failure(error, 400, response_events.begun("a", 0, "m"), 0)
    assert last["response"]["error"]["code"] == "context_length_exceeded"
