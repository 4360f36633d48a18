"""Test what belongs to a call: its id, its values and the form of its family."""

import json

import msgspec
import pytest

from reconciler.worker.output import OutputFormat, described, detect
from reconciler.worker.output.families import CALLS, DESCRIBED
from tests.worker.lenient import THINK, calls, form, parse


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


def test_a_lone_surrogate_never_reaches_the_answer() -> None:
    body = '{"name": "weather", "id": "\\ud800", "arguments": {"city": "\\ud800"}}'
    (call,) = parse("tool_call", f"<tool_call>{body}</tool_call>").calls
    assert msgspec.json.encode(call)
    assert json.loads(call["function"]["arguments"]) == {"city": "\ud800"}
    assert parse("tool_call", '<tool_call>{"name": "\\ud800"}</tool_call>').calls == []


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


@pytest.mark.parametrize("space", ["", " "])
def test_a_harmony_call_is_read_if_the_detokenizer_drops_its_first_space(space: str) -> None:
    text = f'{space}to=functions.weather<|channel|>commentary json<|message|>{{"city": "Oslo"}}'
    parsed = parse("harmony", text, generation="<|start|>assistant")
    assert [call["function"]["name"] for call in parsed.calls] == ["weather"]
    assert parsed.content == ""
