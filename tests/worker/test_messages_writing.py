"""Test the content blocks of a streamed message."""

import json
from typing import Any

import pytest

from reconciler.worker.dialects.messages.signatures import carried
from reconciler.worker.dialects.messages.writing import Blocks
from reconciler.worker.output import Delta


def call(name: str, arguments: str = "{}") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{name}", "type": "function", "function": function}


def blocks(*deltas: Delta, omits_thinking: bool = False) -> list[dict[str, Any]]:
    """The blocks that the events of these parts describe."""
    made = Blocks(omits_thinking=omits_thinking)
    found: list[dict[str, Any]] = []
    is_open = False
    for event in [event for delta in deltas for event in made.add(delta)] + [*made.close()]:
        if event["type"] == "content_block_start":
            assert not is_open
            found.append({"json": ""} | event["content_block"])
        assert event["index"] == len(found) - 1
        is_open = event["type"] != "content_block_stop"
        delta = event.get("delta", {})
        for key, piece in delta.items():
            if key == "partial_json":
                found[-1]["json"] += piece
            elif key != "type":
                found[-1][key] += piece
    assert not is_open
    for block in found:
        if written := block.pop("json"):
            block["input"] = json.loads(written)
    return found


def kinds(found: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    keys = {"text": "text", "thinking": "thinking", "tool_use": "name"}
    return [(block["type"], block[keys[block["type"]]]) for block in found]


def test_parts_become_blocks_in_their_order() -> None:
    found = blocks(
        Delta(reasoning="Let"),
        Delta(reasoning=" me.", content="I"),
        Delta(content=" look."),
        Delta(calls=[call("a"), call("b", '{"x": 1}')]),
        Delta(content="\n\nDone.", calls=[call("c")]),
        Delta(reasoning="Hm."),
        Delta(content="Bye."),
    )
    assert kinds(found) == [
        ("thinking", "Let me."),
        ("text", "I look."),
        ("tool_use", "a"),
        ("tool_use", "b"),
        ("text", "Done."),
        ("tool_use", "c"),
        ("thinking", "Hm."),
        ("text", "Bye."),
    ]
    assert [block["input"] for block in found if block["type"] == "tool_use"] == [{}, {"x": 1}, {}]
    signatures = [block["signature"] for block in found if block["type"] == "thinking"]
    assert all(signatures)
    assert len(set(signatures)) == 2


def test_an_empty_answer_has_no_blocks() -> None:
    assert blocks() == []
    assert blocks(Delta(), Delta(stopped=True)) == []


def test_a_line_break_at_the_beginning_is_text() -> None:
    assert kinds(blocks(Delta(content="\n\nHi"))) == [("text", "\n\nHi")]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"n": 123456789012345678901234567890}', {"n": 123456789012345678901234567890}),
        ('"not an object"', {"arguments": "not an object"}),
        ("[1]", {"arguments": [1]}),
        ("null", {"arguments": None}),
    ],
)
def test_the_input_of_a_tool_is_an_object(arguments: str, expected: Any) -> None:
    (block,) = blocks(Delta(calls=[call("a", arguments)]))
    assert block["input"] == expected


def test_omitted_reasoning_is_carried_in_the_signature() -> None:
    thought, text = blocks(
        Delta(reasoning="Let me"),
        Delta(reasoning=" see."),
        Delta(content="Hi"),
        omits_thinking=True,
    )
    assert (thought["thinking"], text["text"]) == ("", "Hi")
    assert carried(thought["signature"]) == "Let me see."
