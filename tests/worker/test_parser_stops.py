"""Test stop sequences beside reasoning and tool calls."""

import pytest

from reconciler.worker.output import Delta, TextParser
from tests.worker.lenient import form, parse
from tests.worker.test_round_trip import TOOLS


def test_a_stop_ends_the_content_however_it_is_split() -> None:
    delta = parse("tool_call", "<think>Tokyo</think>\n\nIt is Tokyo.", stops=("Tokyo", "To"))
    assert (delta.reasoning, delta.content, delta.stopped) == ("Tokyo", "It is ", True)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("stop", ["look", "\n"])
def test_nothing_follows_a_stop(stop: str, whole: bool) -> None:
    text = 'I will\nlook.\n<tool_call>{"name": "weather", "arguments": {}}</tool_call> Bye.'
    parser = TextParser(form("tool_call"), stops=[stop], tools=TOOLS)
    parsed = Delta()
    for piece in [text] if whole else text:
        delta = parser.feed(piece, None)
        parsed.content += delta.content
        parsed.calls += delta.calls
        parsed.stopped |= delta.stopped
    assert parsed == Delta(content=text[: text.index(stop)], stopped=True)


def test_line_breaks_around_reasoning_and_calls_are_not_stops() -> None:
    call = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    parsed = parse("tool_call", f"<think>\nhm\n\n</think>\n\nYes.{call}\n\n{call}", stops=("\n\n",))
    assert (parsed.content, len(parsed.calls), parsed.stopped) == ("Yes.", 2, False)


def test_an_incomplete_stop_before_a_call_is_text() -> None:
    call = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    parsed = parse("tool_call", f"Yes{call}", stops=("Yes!",))
    assert (parsed.content, len(parsed.calls), parsed.stopped) == ("Yes", 1, False)
