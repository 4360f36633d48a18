"""What a model writes cannot hold up the worker's event loop."""

import pytest

from reconciler.worker.output import patterns
from reconciler.worker.output.families import CALLS
from reconciler.worker.output.format import OutputFormat
from reconciler.worker.output.parser import TextParser

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
LONG = 200_000
"""Characters; quadratic time would be an hour."""

DEEPSEEK = "<｜tool▁call▁end｜>"

BODIES = {
    "DeepSeek": ("<｜tool▁call▁begin｜>", " ", DEEPSEEK),
    "seed:tool_call": ("<seed:tool_call><function=", "\n", "</seed:tool_call>"),
    "DeepSeek, fenced": (
        "<｜tool▁call▁begin｜>f<｜tool▁sep｜>```json\n",
        " ",
        "!<｜tool▁call▁end｜>",
    ),
}


def parser(name: str) -> TextParser:
    (found,) = (one for one in CALLS if one.name == name)
    return TextParser(OutputFormat(regions=found.regions, dropped=found.dropped), tools=TOOLS)


def written(one: TextParser, *pieces: str) -> tuple[str, int]:
    """Content and number of calls of a completion."""
    deltas = [one.feed(piece, None) for piece in pieces]
    deltas.append(one.feed("", "stop"))
    return "".join(delta.content for delta in deltas), sum(len(delta.calls) for delta in deltas)


@pytest.mark.parametrize("kind", BODIES)
def test_a_long_call_that_is_malformed_is_text(kind: str) -> None:
    opens, fill, closes = BODIES[kind]
    content, calls = written(parser(kind.partition(",")[0]), opens, fill * LONG, closes)
    assert calls == 0
    assert content.strip().endswith(closes)


def test_a_call_that_takes_too_long_to_parse_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>'
    assert written(parser("DeepSeek"), call) == ("", 1)
    monkeypatch.setattr(patterns, "SECONDS", 0.0)
    assert written(parser("DeepSeek"), call) == (call, 0)
