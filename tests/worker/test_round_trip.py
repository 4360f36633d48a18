"""A turn that a chat template renders is understood as that turn, however it is split."""

import json
import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from reconciler.worker.output import Delta, OutputFormat, TextParser, detect
from tests.rendering import OWN, PUBLISHED, Template

ENDS = re.compile(
    r"<\|im_end\|>|<\|eot_id\|>|<EOS>|<\|END_OF_TURN_TOKEN\|>|<｜end▁of▁sentence｜>|<\|return\|>"
    r"|<\|call\|>|<end_of_turn>|<turn\|>|<\|tool_response>|<\|end_of_text\|>|<seed:eos>"
    r"|\n<\|START_OF_TURN_TOKEN\|>|\n<\|end\|>|<\|end\|>\n|<\|eom_id\|>"
)
"""Ends of turns: tokens, which are no text of the answer."""

USER = {"role": "user", "content": "Hi there."}
TEXT = "It rains, and 1 < 2."
THOUGHT = "Let me look.\nIt may rain."
NESTED = {"city": "Paris", "where": {"a": [1, None, True, {"b": "c"}]}, "names": ["x", "y z"]}
UNICODE = {"city": 'ü "q" \\ \n日本 🎉', "names": ["it's", "{}[]()<>"]}
NUMBERS = {"days": 3, "ratio": -2.5, "exact": False, "city": "3"}


def tool(name: str) -> dict[str, Any]:
    """A tool with a parameter of each type."""
    kinds = {
        "city": "string",
        "days": "integer",
        "ratio": "number",
        "exact": "boolean",
        "where": "object",
        "names": "array",
    }
    properties: dict[str, Any] = {
        key: {"type": kind, "description": key} for key, kind in kinds.items()
    }
    properties["where"] |= {"properties": {}, "additionalProperties": {"type": "string"}}
    properties["names"]["items"] = {"type": "string"}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    function = {"name": name, "description": f"Does {name}.", "parameters": parameters}
    return {"type": "function", "function": function}


TOOLS = [tool("weather"), tool("time_of")]

Calls = list[tuple[str, dict[str, Any]]]
CASES: dict[str, tuple[str, str, Calls]] = {
    "text": ("", TEXT, []),
    "reasoning": (THOUGHT, TEXT, []),
    "call": ("", "", [("weather", {"city": "Paris"})]),
    "text and call": ("", TEXT, [("weather", {"city": "Paris"})]),
    "reasoning and call": (THOUGHT, "", [("weather", {"city": "Paris"})]),
    "two calls": ("", "", [("weather", {"city": "Paris"}), ("time_of", {"days": 2})]),
    "nested": ("", "", [("weather", NESTED)]),
    "unicode": ("", "", [("weather", UNICODE)]),
    "numbers": ("", "", [("weather", NUMBERS)]),
    "empty": ("", "", [("weather", {})]),
}
"""Reasoning, content and calls of a turn."""


def turns(case: str) -> Iterator[dict[str, Any]]:
    """The turn in the forms that templates want: empty content, arguments as JSON text."""
    reasoning, content, calls = CASES[case]
    for empty in ("", None):
        for text in (False, True):
            turn: dict[str, Any] = {"role": "assistant", "content": content or empty}
            if reasoning:
                turn |= {"reasoning_content": reasoning, "thinking": reasoning}
            if calls:
                turn["tool_calls"] = [
                    {
                        "id": f"abcdefgh{i}",
                        "type": "function",
                        "function": {
                            "name": name,
                            "arguments": json.dumps(given, ensure_ascii=False) if text else given,
                        },
                    }
                    for i, (name, given) in enumerate(calls)
                ]
            yield turn


@cache
def template(path: Path) -> Template:
    return Template(path)


@cache
def form(path: Path) -> OutputFormat:
    return detect(template(path).source, render=template(path))


def rendered(path: Path, case: str) -> tuple[str, str] | None:
    """The generation prompt and the turn as the template writes it; None if it does not."""
    reasoning, content, calls = CASES[case]
    # Harmony has one place for reasoning and for text before a call.
    both = "analysis" in template(path).source and content and calls
    for turn in turns(case):
        try:
            thinks = {"enable_thinking": True, "thinking": True} if reasoning else {}
            whole, common, text = template(path).turn(
                [USER], turn, TOOLS if calls else [], **thinks
            )
        except Exception:  # noqa: BLE001, S112  templates raise what they like
            continue
        text = ENDS.split(text)[0]
        wanted = [content, reasoning, *(name for name, _ in calls)]
        if all(part in text for part in wanted) and not both:
            # A turn may be written without what the generation prompt begins.
            return (
                whole
                if reasoning and reasoning not in parse(path, common, text).reasoning
                else common
            ), text
    return None


def parse(path: Path, generation: str, *pieces: str, tools: Any = TOOLS) -> Delta:
    """What is understood of an answer that comes in pieces."""
    parser = TextParser(form(path), generation=generation, tools=tools)
    whole = Delta()
    for i, piece in enumerate(pieces):
        delta = parser.feed(piece, "stop" if i == len(pieces) - 1 else None)
        whole.content += delta.content
        whole.reasoning += delta.reasoning
        whole.calls += delta.calls
    return whole


def splits(text: str) -> Iterator[list[str]]:
    """The text whole, in characters, and in random pieces."""
    yield [text]
    yield list(text)
    for seed in range(4):
        chance = random.Random(seed)
        cuts = sorted(chance.sample(range(len(text) + 1), min(len(text), 3 + 9 * seed)))
        yield [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def turn_of(delta: Delta) -> tuple[str, str, Calls]:
    functions = [call["function"] for call in delta.calls]
    calls = [(function["name"], json.loads(function["arguments"])) for function in functions]
    return delta.reasoning, delta.content, calls


PATHS = [*sorted(OWN.glob("*.jinja")), *sorted(PUBLISHED.glob("*.jinja"))]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_turn_comes_back_as_it_was_rendered(path: Path) -> None:
    for case, (reasoning, content, calls) in CASES.items():
        found = rendered(path, case)
        if found is None:
            continue
        generation, text = found
        for pieces in splits(text):
            thought, said, called = turn_of(parse(path, generation, *pieces))
            # Without marks around it, whitespace is part of the text.
            words = said if form(path).regions and case != "text" else said.strip()
            assert (thought, words, called) == (reasoning, content, calls), (case, pieces)
