"""Test the detection of a model's output format from its template and its own description."""

from typing import Any

import pytest

from reconciler.worker.output import OutputFormat, TextParser, detect
from tests.worker.lenient import PARIS, calls, parse

# Detection


TEMPLATE = {
    "fields": {
        "thinking": {"open": "<hm>", "close": "</hm>"},
        "content": {},
        "tool_calls": {
            "open_pattern": r"<use:(?P<tool>\w+)>",
            "close": "</use>",
            "content": "json",
            "repeats": True,
            "transform": {
                "type": "function",
                "function": {"name": "{tool}", "arguments": "{content}"},
            },
        },
    },
    "start_anchor": "<assistant>",
}


def test_a_checkpoints_own_description_takes_precedence() -> None:
    found = detect("<think> <tool_call>", response_template=TEMPLATE)
    delta = parse(found, '<hm>So.</hm>I look.<use:weather>{"city": "Paris"}</use>')
    assert (delta.reasoning, delta.content, calls(delta)) == ("So.", "I look.", PARIS)


@pytest.mark.parametrize(
    "template", [5, [], {}, {"fields": 3}, {"fields": {"a": {"open_pattern": "("}}}]
)
def test_an_invalid_description_is_reported_and_ignored(template: Any) -> None:
    found = detect("<think> </think>", response_template=template)
    assert "response_template" in found.problem
    assert parse(found, "<think>So.</think>Yes.").reasoning == "So."


def test_text_is_kept_if_the_patterns_of_a_description_time_out() -> None:
    fields = {"content": {}, "thinking": {"open_pattern": r"(a+)+$", "close": "b"}}
    found = detect("", response_template={"fields": fields, "start_anchor": "x"})
    parser = TextParser(found)
    parser._splitter._seconds = 0.01
    text = "a" * 200 + "!"
    assert parser.feed(text, "stop").content == text


def test_undescribed_marks_are_detected_from_the_template() -> None:
    def render(messages: Any, **_: Any) -> str:
        return "".join(
            f"[{m['role']}]"
            + (f"<mull>{m['thought']}</mull>" if "thought" in m else "")
            + m["content"]
            for m in messages
        )

    found = detect("{{ reasoning_content }}", render=render)
    assert parse(found, "<mull>So.</mull>Yes.").reasoning == "So."
    assert found.problem == ""


def test_an_unknown_form_of_calls_is_reported() -> None:
    def render(messages: Any, **_: Any) -> str:
        return "".join(f"[{m['role']}]{m.get('tool_calls', m['content'])}" for m in messages)

    for template in ("{{ tools }}", "{{ messages }}"):
        assert "tool calls" in detect(template, render=render).problem
    assert "tool calls" in detect("{{ tools }}").problem


def test_a_template_that_fails_does_not_prevent_detection() -> None:
    def render(*_: Any, **__: Any) -> str:
        raise RecursionError

    assert detect("<tool_call> </think>", render=render).calls == "tool_call"
    assert detect("{% for", render=render) == OutputFormat()
