"""Test imperfect model output: it is read as intended or kept as text, and never lost."""

import json
from typing import Any

import msgspec
import pytest

from reconciler.worker.output import Delta, OutputFormat, TextParser, described, detect
from reconciler.worker.output.families import CALLS, DESCRIBED, REASONING
from tests.worker.test_round_trip import TOOLS, splits

THINK = REASONING[0]


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


PARIS = [("weather", {"city": "Paris"})]
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


def test_the_models_call_ids_are_kept_and_never_repeated() -> None:
    kimi = parse(
        "Kimi",
        '<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "a"}'
        "<|tool_call_end|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
        '{"city": "b"}<|tool_call_end|>',
    )
    assert kimi.calls[0]["id"] == "functions.weather:0"
    assert kimi.calls[1]["id"].startswith("call_")
    mistral = parse("[TOOL_CALLS]", '[TOOL_CALLS]weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "a"}')
    assert mistral.calls[0]["id"] == "a1b2c3d4e"


@pytest.mark.parametrize("value", ["a\n", "\na\n", " a ", "", "\n", "a\n\nb\n"])
def test_line_breaks_of_a_value_are_kept_and_those_of_the_form_are_removed(value: str) -> None:
    """A file that a model writes ends with a line break."""
    expected = [("weather", {"city": value, "days": 3})]
    for around in (
        (
            "<function=weather>\n<parameter=city>\n{}\n</parameter>\n"
            "<parameter=days>\n3\n</parameter>\n</function>"
        ),
        "<function=weather><parameter=city>{}</parameter><parameter=days>3</parameter></function>",
    ):
        if around.count("\n") == 0 and value.startswith("\n"):
            continue  # possible in one of the two forms only
        assert calls(parse("tool_call", around.format(value))) == expected
    invoke = '<invoke name="weather"><parameter name="city">{}</parameter></invoke>'
    assert calls(parse("MiniMax", invoke.format(value))) == [("weather", {"city": value})]
    keyed = "<tool_call>weather<arg_key>city</arg_key><arg_value>{}</arg_value></tool_call>"
    assert calls(parse("tool_call", keyed.format(value))) == [("weather", {"city": value})]


def test_marks_around_the_answer_are_removed_even_if_it_contains_a_call() -> None:
    found = detect("<|START_RESPONSE|> <tool_call>")
    text = 'Hi.<tool_call>{"name": "weather"}</tool_call><|END_RESPONSE|>'
    delta = parse(found, text, generation="<|CHATBOT_TOKEN|><|START_RESPONSE|>")
    assert (delta.content, calls(delta)) == ("Hi.", [("weather", {})])


def test_texts_around_a_call_are_separated() -> None:
    text = 'Hi.\n<tool_call>{"name": "weather", "arguments": {}}</tool_call>\nDone.\n'
    assert parse("tool_call", text).content == "Hi.\n\nDone."


def test_a_lone_surrogate_never_reaches_the_answer() -> None:
    body = '{"name": "weather", "id": "\\ud800", "arguments": {"city": "\\ud800"}}'
    (call,) = parse("tool_call", f"<tool_call>{body}</tool_call>").calls
    assert msgspec.json.encode(call)
    assert json.loads(call["function"]["arguments"]) == {"city": "\ud800"}
    assert parse("tool_call", '<tool_call>{"name": "\\ud800"}</tool_call>').calls == []


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


def test_described_tools_are_called_in_the_described_form() -> None:
    harmony = OutputFormat(regions=CALLS[0].regions)
    for base in (OutputFormat(), OutputFormat(regions=THINK.regions), harmony):
        assert described(base).calls == DESCRIBED.name
        delta = parse(
            described(base), 'Yes.\n<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
        )
        assert (calls(delta), delta.content) == ([("weather", {})], "Yes.")


def test_described_tools_may_be_called_in_the_form_that_the_model_was_trained_on() -> None:
    own = form("DeepSeek")
    text = (
        "Yes.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
        '{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    )
    delta = parse(described(own), text)
    assert (calls(delta), delta.content) == ([("weather", {"city": "Paris"})], "Yes.")


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


def test_only_the_last_call_of_an_answer_can_be_truncated() -> None:
    first = '<tool_calls>[{"name": "weather", "arguments": {"city": "Paris"}'
    text = f"{first}\n{first}"
    for pieces in ([text], list(text)):
        parser = TextParser(form("tool_calls"), tools=TOOLS)
        ends = [None] * (len(pieces) - 1) + ["length"]
        parsed = [parser.feed(*one) for one in zip(pieces, ends, strict=True)]
        assert sum(len(delta.calls) for delta in parsed) == 1


@pytest.mark.parametrize("space", ["", " "])
def test_a_harmony_call_is_read_if_the_detokenizer_drops_its_first_space(space: str) -> None:
    text = f'{space}to=functions.weather<|channel|>commentary json<|message|>{{"city": "Oslo"}}'
    parsed = parse("harmony", text, generation="<|start|>assistant")
    assert [call["function"]["name"] for call in parsed.calls] == ["weather"]
    assert parsed.content == ""
