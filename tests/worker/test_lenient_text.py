"""Test the text and the reasoning around calls: nothing is lost, and marks are removed."""

import pytest

from reconciler.worker.output import TextParser
from tests.worker.lenient import form, parse
from tests.worker.test_round_trip import TOOLS


def test_texts_around_a_call_are_separated() -> None:
    text = 'Hi.\n<tool_call>{"name": "weather", "arguments": {}}</tool_call>\nDone.\n'
    assert parse("tool_call", text).content == "Hi.\n\nDone."


def test_several_messages_of_one_turn_are_separated() -> None:
    text = (
        "<|channel|>analysis<|message|>First.<|end|>"
        "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Second.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It rains."
    )
    delta = parse("harmony", text, generation="<|start|>assistant")
    assert (delta.reasoning, delta.content) == ("First.\nSecond.", "I look.\n\nIt rains.")


def test_a_truncated_header_is_not_text() -> None:
    for text in (
        "<|channel|>anal",
        "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|chan",
    ):
        delta = parse("harmony", text, generation="<|start|>assistant", end="length")
        assert delta.content == ""


def test_text_without_a_header_is_text() -> None:
    assert parse("harmony", "It rains.", generation="<|start|>assistant").content == "It rains."


def test_marks_of_reasoning_within_a_text_are_text_after_the_reasoning() -> None:
    text = "A `<think>` mark begins and `</think>` ends it."
    for generation in ("<think>\n\n</think>\n\n", ""):
        given = text if generation else f"<think>Hm.</think>{text}"
        assert parse("tool_call", given, generation=generation).content == text


def test_a_repeated_mark_at_the_start_of_reasoning_is_removed() -> None:
    delta = parse("tool_call", "<think>\nHm.\n</think>\nYes.", generation="<think>\n")
    assert (delta.reasoning, delta.content) == ("Hm.", "Yes.")


def test_a_closing_mark_without_reasoning_is_removed() -> None:
    assert parse("tool_call", "Hm.</think>It rains.").content == "Hm.It rains."


def test_unfinished_reasoning_is_all_reasoning() -> None:
    delta = parse("tool_call", "Hm. So", generation="<think>\n", end="length")
    assert (delta.reasoning, delta.content) == ("Hm. So", "")


NEVER_CLOSED = ["<tool_call>", "<think>", '<tool_call>{"a": "', "<function=weather><parameter=a>"]


@pytest.mark.parametrize("opening", [*NEVER_CLOSED, *(400 * one for one in NEVER_CLOSED)])
def test_a_long_answer_without_a_close_takes_linear_time(opening: str) -> None:
    text = opening + "word " * 8_000
    parser = TextParser(form("tool_call"), tools=TOOLS)
    length = 0
    for i in range(0, len(text), 4):  # in quadratic time, this would exceed the test's time limit
        delta = parser.feed(text[i : i + 4], "length" if i + 4 >= len(text) else None)
        length += len(delta.content) + len(delta.reasoning)
    assert length >= len("word " * 8_000) - 1
