"""Test malformed and truncated calls: they are read as intended or kept as text, and never lost."""

from typing import Any

import pytest

from reconciler.worker.output import TextParser
from tests.worker.lenient import PARIS, calls, form, parse
from tests.worker.test_round_trip import TOOLS

AS_MEANT: dict[str, tuple[str, str, list[tuple[str, Any]]]] = {
    "arguments are JSON in a string": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        PARIS,
    ),
    "arguments are missing": (
        "tool_call",
        '<tool_call>{"name": "weather"}</tool_call>',
        [("weather", {})],
    ),
    "arguments stand beside the name": (
        "tool_call",
        '<tool_call>{"name": "weather", "city": "Paris"}</tool_call>',
        PARIS,
    ),
    "arguments are null": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": null}</tool_call>',
        [("weather", {})],
    ),
    "parameters for arguments": (
        "tool_call",
        '<tool_call>{"name": "weather", "parameters": {"city": "Paris"}}</tool_call>',
        PARIS,
    ),
    "OpenAI's own form": (
        "tool_call",
        (
            '<tool_call>{"type": "function", "function": '
            '{"name": "weather", "arguments": {"city": "Paris"}}}</tool_call>'
        ),
        PARIS,
    ),
    "two objects in one call": (
        "tool_call",
        (
            '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}\n'
            '{"name": "time_of", "arguments": {}}</tool_call>'
        ),
        [*PARIS, ("time_of", {})],
    ),
    "two functions in one call": (
        "tool_call",
        (
            "<tool_call><function=weather><parameter=city>Paris</parameter></function>"
            "<function=time_of></function></tool_call>"
        ),
        [*PARIS, ("time_of", {})],
    ),
    "a call that is not closed before the next": (
        "tool_call",
        (
            '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}\n'
            '<tool_call>{"name": "time_of", "arguments": {}}</tool_call>'
        ),
        [*PARIS, ("time_of", {})],
    ),
    "a parameter that is not closed": (
        "tool_call",
        (
            "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n"
            "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
        ),
        [("weather", {"city": "Paris", "days": 3})],
    ),
    "the last parameter is not closed": (
        "tool_call",
        "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</function>\n</tool_call>",
        PARIS,
    ),
    "no opening tool_call": (
        "tool_call",
        "<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
        PARIS,
    ),
    "raw line breaks in a string": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"city": "Pa\nris"}}</tool_call>',
        [("weather", {"city": "Pa\nris"})],
    ),
    "an escape that JSON does not know": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"city": "\\d+"}}</tool_call>',
        [("weather", {"city": "\\d+"})],
    ),
    "NaN": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"ratio": NaN}}</tool_call>',
        [("weather", {"ratio": None})],
    ),
    "a number that is infinite": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"ratio": 1e999}}</tool_call>',
        [("weather", {"ratio": None})],
    ),
    "Python's quotes and literals": (
        "tool_call",
        "<tool_call>{'name': 'weather', 'arguments': {'city': 'Paris', 'exact': True,}}",
        [("weather", {"city": "Paris", "exact": True})],
    ),
    "a missing last brace": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}',
        PARIS,
    ),
    "a missing last brace before the closing mark": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}</tool_call>',
        PARIS,
    ),
    "a call as in Python": ("tool_call", '<tool_call>weather(city="Paris")</tool_call>', PARIS),
    "no closing mark": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}',
        PARIS,
    ),
    "a mark inside a string": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"city": "</tool_call><think>"}}</tool_call>',
        [("weather", {"city": "</tool_call><think>"})],
    ),
    "a mark inside a parameter": (
        "tool_call",
        (
            "<tool_call><function=weather><parameter=city>a </tool_call> b</parameter>"
            "</function></tool_call>"
        ),
        [("weather", {"city": "a </tool_call> b"})],
    ),
    "numbers in strings": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": {"days": "3", "city": 75001}}</tool_call>',
        [("weather", {"days": 3, "city": "75001"})],
    ),
    "JSON in a function's tags": (
        "bare JSON",
        '<function=weather>{"city": "Paris"}</function>',
        PARIS,
    ),
    "after <|python_tag|>": (
        "bare JSON",
        '<|python_tag|>{"name": "weather", "parameters": {"city": "Paris"}}',
        PARIS,
    ),
    "a built-in call after <|python_tag|>": (
        "bare JSON",
        '<|python_tag|>weather.call(city="Paris")',
        PARIS,
    ),
    "the channel after the recipient": (
        "harmony",
        (
            "<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>"
            '{"city": "Paris"}<|call|>'
        ),
        PARIS,
    ),
    "the recipient after the channel": (
        "harmony",
        (
            "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
            '{"city": "Paris"}<|call|>'
        ),
        PARIS,
    ),
    "a section that is not opened": (
        "Kimi",
        (
            '<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Paris"}'
            "<|tool_call_end|>"
        ),
        PARIS,
    ),
    "a call inside reasoning, by tokens": (
        "Kimi",
        (
            "<think>Hm.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
            '<|tool_call_argument_begin|>{"city": "Paris"}<|tool_call_end|>'
            "<|tool_calls_section_end|>"
        ),
        PARIS,
    ),
}


@pytest.mark.parametrize("case", AS_MEANT)
def test_malformed_calls_are_read_as_intended(case: str) -> None:
    family, text, expected = AS_MEANT[case]
    delta = parse(family, text)
    assert calls(delta) == expected
    assert delta.content == ""


AS_TEXT: dict[str, tuple[str, str]] = {
    "no JSON": ("tool_call", "<tool_call>no json</tool_call> done"),
    "a number": ("tool_call", "<tool_call>5</tool_call> done"),
    "no name": ("tool_call", '<tool_call>{"city": "Paris"}</tool_call>'),
    "arguments that are a list": (
        "tool_call",
        '<tool_call>{"name": "weather", "arguments": [1]}</tool_call>',
    ),
    "JSON that calls no tool": ("bare JSON", '{"name": "Ann", "type": "person"}'),
    "a list in Python": ("bare Python", "[print(1), print(2)]"),
    "a mark that is explained": ("tool_call", "Write `<function=NAME>` to call."),
    "a mark that is none": ("tool_call", "a < b <tool <tool_call"),
    "nested too deeply": (
        "tool_call",
        f'<tool_call>{{"name": "weather", "arguments": {"[" * 5000}</tool_call>',
    ),
}


@pytest.mark.parametrize("case", AS_TEXT)
def test_text_that_is_not_a_call_is_kept_verbatim(case: str) -> None:
    family, text = AS_TEXT[case]
    delta = parse(family, text)
    assert (delta.calls, delta.content) == ([], text)


@pytest.mark.parametrize("case", AS_MEANT)
def test_without_tools_there_are_no_calls_and_nothing_is_lost(case: str) -> None:
    family, text, _ = AS_MEANT[case]
    delta = parse(family, text, tools=[])
    assert delta.calls == []
    whole = delta.reasoning + delta.content
    assert "Paris" in whole or "Paris" not in text


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "weather", "arguments": {"city": "Par',
        '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}',
        "<tool_call>\n<function=weather>\n<parameter=city>\nPar",
    ],
)
def test_a_truncated_call_is_text_and_is_not_completed(text: str) -> None:
    delta = parse("tool_call", text, end="length")
    assert (delta.calls, delta.content) == ([], text)


def test_a_call_that_is_truncated_before_its_arguments_is_dropped() -> None:
    text = "<|channel|>commentary to=functions.weather<|message|>"
    assert parse("harmony", text, end="length").calls == []
    assert calls(parse("harmony", text, end="stop")) == [("weather", {})]


def test_only_the_last_call_of_an_answer_can_be_truncated() -> None:
    first = '<tool_calls>[{"name": "weather", "arguments": {"city": "Paris"}'
    text = f"{first}\n{first}"
    for pieces in ([text], list(text)):
        parser = TextParser(form("tool_calls"), tools=TOOLS)
        ends = [None] * (len(pieces) - 1) + ["length"]
        parsed = [parser.feed(*one) for one in zip(pieces, ends, strict=True)]
        assert sum(len(delta.calls) for delta in parsed) == 1
