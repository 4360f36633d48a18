"""Parses imperfect model output for tests, however it is split."""

import json
from typing import Any

from reconciler.worker.output import Delta, OutputFormat, TextParser
from reconciler.worker.output.families import CALLS, REASONING
from tests.worker.test_round_trip import TOOLS, splits

THINK = REASONING[0]
PARIS = [("weather", {"city": "Paris"})]


def form(name: str) -> OutputFormat:
    """The form of a family's calls, with reasoning between <think> and </think>."""
    (found,) = [one for one in CALLS if one.name == name]
    return OutputFormat(regions=(*found.regions, *THINK.regions), dropped=found.dropped)


def parse(
    name: str | OutputFormat,
    text: str,
    *,
    tools: Any = TOOLS,
    generation: str = "",
    end: str = "stop",
    stops: tuple[str, ...] = (),
) -> Delta:
    """The parsed text, which is the same however the text is split."""
    found = []
    for pieces in splits(text):
        parser = TextParser(
            form(name) if isinstance(name, str) else name,
            generation=generation,
            tools=tools,
            stops=stops,
        )
        whole = Delta()
        for i, piece in enumerate(pieces):
            delta = parser.feed(piece, end if i == len(pieces) - 1 else None)
            whole.content += delta.content
            whole.reasoning += delta.reasoning
            whole.calls += delta.calls
            whole.stopped = delta.stopped
        found.append(whole)
    assert len({(one.content, one.reasoning, str(calls(one))) for one in found}) == 1
    return found[0]


def calls(delta: Delta) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in delta.calls]
    return [(function["name"], json.loads(function["arguments"])) for function in functions]
