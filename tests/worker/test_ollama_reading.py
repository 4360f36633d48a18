"""Test the translation of Ollama requests to completions."""

from pathlib import Path
from typing import Any

import pytest

from reconciler.worker.dialects.ollama import reading as ollama_reading
from reconciler.worker.dialects.ollama.reading import read_chat, read_generate
from reconciler.worker.dialects.translated import Translated
from reconciler.worker.errors import RequestError

HELLO = {"role": "user", "content": "Hello"}


def chat(*messages: dict[str, Any], **more: Any) -> Translated:
    return read_chat({"model": "m", "messages": list(messages or (HELLO,))} | more)


def generate(**more: Any) -> Translated:
    return read_generate({"model": "m", "prompt": "Hello"} | more)


def sent(read: Translated) -> dict[str, Any]:
    """Requested keys other than the model, the messages and the stream."""
    left_out = ("model", "messages", "stream", "prompt")
    return {k: v for k, v in read.sent.items() if k not in left_out}


def test_a_chat_streams_by_default() -> None:
    assert chat().sent == {"model": "m", "messages": [HELLO], "stream": True}
    assert chat(stream=None).sent["stream"] is True
    assert chat(stream=False).sent["stream"] is False


def test_options_become_keys_of_a_completion() -> None:
    options: dict[str, Any] = {
        "num_predict": 5,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "min_p": 0.1,
    }
    options |= {"seed": 7, "stop": ["x"], "repeat_penalty": 1.2}
    read = chat(options=options)
    same = {key: options[key] for key in options.keys() - {"num_predict", "repeat_penalty"}}
    assert sent(read) == same | {"max_tokens": 5, "repetition_penalty": 1.2}
    assert read.names["max_tokens"] == "options.num_predict"
    assert read.names["repetition_penalty"] == "options.repeat_penalty"
    assert read.warnings == []
    for unlimited in (0, -1, -2):
        assert sent(chat(options={"num_predict": unlimited})) == {"max_tokens": -1}


def test_penalties_cover_the_requested_number_of_tokens() -> None:
    keys = ("repetition_context_size", "presence_context_size", "frequency_context_size")
    read = chat(options={"repeat_last_n": 9})
    assert sent(read) == dict.fromkeys(keys, 9)
    assert {read.names[key] for key in keys} == {"options.repeat_last_n"}
    off = chat(options={"repeat_last_n": 0, "repeat_penalty": 1.5, "presence_penalty": 1})
    assert sent(off) == {"repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}


def test_every_option_of_the_client_is_known() -> None:
    import ollama

    known = {*ollama_reading.OPTIONS, *ollama_reading.REFUSED_OPTIONS, "num_ctx", "repeat_last_n"}
    known |= ollama_reading.HARMLESS_OPTIONS
    assert set(ollama.Options.model_fields) <= known


def test_every_key_of_the_client_is_known() -> None:
    import ollama._types as types

    read = chat(**dict.fromkeys(set(types.ChatRequest.model_fields) - {"model", "messages"}))
    assert read.warnings == []
    fields = set(types.GenerateRequest.model_fields) - {"model", "prompt"}
    assert generate(**dict.fromkeys(fields)).warnings == []
    keys = set(types.Message.model_fields) - {"role", "content"}
    assert chat(HELLO | dict.fromkeys(keys)).warnings == []


def test_every_option_is_documented() -> None:
    page = Path("docs/http/ollama.md").read_text("utf-8")
    options = {*ollama_reading.OPTIONS, *ollama_reading.REFUSED_OPTIONS}
    options |= ollama_reading.HARMLESS_OPTIONS
    assert [option for option in options if f"`{option}`" not in page] == []


@pytest.mark.parametrize(
    ("format_", "asked"),
    [
        (None, None),
        ("", None),
        ("json", {"type": "json_object"}),
        ({"type": "array"}, {"type": "json_schema", "json_schema": {"schema": {"type": "array"}}}),
        ({}, {"type": "json_schema", "json_schema": {"schema": {}}}),
    ],
)
def test_a_format_is_a_structured_output(format_: Any, asked: Any) -> None:
    for read in (chat(format=format_), generate(format=format_)):
        assert read.sent.get("response_format") == asked


def test_calls_and_results_are_paired() -> None:
    def call(name: str, **more: Any) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {"x": 1}}} | more

    def result(**more: Any) -> dict[str, Any]:
        return {"role": "tool", "content": "r"} | more

    calls = [call("a"), call("b"), call("a"), call("c", id="own")]
    read = chat(
        HELLO,
        {"role": "assistant", "tool_calls": calls, "thinking": "hm"},
        result(tool_name="b"),
        result(),
        result(tool_name="c"),
        result(tool_name="a"),
        result(tool_name="unknown"),
    )
    assistant, *results = read.sent["messages"][1:]
    assert assistant["reasoning_content"] == "hm"
    ids = [made["id"] for made in assistant["tool_calls"]]
    assert len(set(ids)) == 4
    a, b, second_a, c = ids
    assert c == "own"
    assert assistant["tool_calls"][0]["function"] == {"name": "a", "arguments": {"x": 1}}
    assert [one["tool_call_id"] for one in results] == [b, a, c, second_a, "call_0"]
    assert [one.get("name") for one in results] == ["b", None, "c", "a", "unknown"]
    given = chat(HELLO, {"role": "assistant", "tool_calls": calls}, result(tool_call_id="own"))
    assert given.sent["messages"][-1]["tool_call_id"] == "own"


def test_a_final_assistant_message_is_continued() -> None:
    begun = {"role": "ASSISTANT", "content": "The"}
    assert chat(HELLO, begun).sent["continue_final_message"] is True
    assert "continue_final_message" not in chat(begun, HELLO).sent
    assert "continue_final_message" not in chat(HELLO, begun, format="json").sent


def test_a_prompt_is_a_chat_of_one_turn_unless_it_is_raw() -> None:
    read = generate(system="Be kind.")
    assert read.chat
    assert read.sent["messages"] == [{"role": "system", "content": "Be kind."}, HELLO]
    for more in ({"raw": True}, {"suffix": "end"}):
        read = generate(think=True, logprobs=True, top_logprobs=3, **more)
        assert not read.chat
        assert read.sent["prompt"] == "Hello"
        assert sent(read) == {"logprobs": 3} | {k: v for k, v in more.items() if k == "suffix"}
    assert sent(chat(logprobs=True)) == {"logprobs": True, "top_logprobs": 0}


def test_keys_without_effect_are_reported() -> None:
    read = chat(HELLO | {"nme": 1}, {"role": "user", "content": "", "x": 2}, truncate=True, y=3)
    assert [words.partition(":")[0] for words in read.warnings] == [
        *("y", "truncate", "messages[0].nme", "messages[1].x")
    ]
    many = chat(options={f"o{i}": 1 for i in range(1000)})
    assert len(many.warnings) <= 32


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"images": ["x"]}, "images"),
        ({"template": "x"}, "template"),
        ({"context": [1]}, "context"),
        ({"raw": True, "system": "x"}, "raw"),
        ({"think": "very"}, "think"),
        ({"think": []}, "think"),
        ({"format": "xml"}, "format"),
        ({"format": 5}, "format"),
        ({"keep_alive": "x"}, "keep_alive"),
        ({"options": {"typical_p": 0.5}}, "options.typical_p"),
        ({"options": {"mirostat": 1}}, "options.mirostat"),
        ({"options": []}, "options"),
        ({"prompt": 5}, "prompt"),
        ({"stream": "yes"}, "stream"),
        ({"_debug_render_only": True}, "_debug_render_only"),
        ({"width": 5}, "width"),
    ],
)
def test_an_unsupported_value_is_refused_under_the_key_that_was_sent(
    body: dict[str, Any], param: str
) -> None:
    with pytest.raises(RequestError) as caught:
        generate(**body)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_an_invalid_message_is_refused_with_its_place() -> None:
    for wrong, param in (
        ({"role": "user", "content": 5}, "messages[1].content"),
        ({"content": "x"}, "messages[1]"),
        (HELLO | {"images": ["x"]}, "messages"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[1].tool_calls[0]"),
    ):
        with pytest.raises(RequestError) as caught:
            chat(HELLO, wrong)
        assert caught.value.param == param
        assert "messages[1]" in str(caught.value)


@pytest.mark.parametrize("name", ["a", "other", None])
def test_as_many_calls_and_results_as_fit_in_a_body_are_paired_in_time(name: str | None) -> None:
    """Pairing in quadratic time would take hours."""
    number = 100_000
    call = {"function": {"name": "a"}}
    result = {"role": "tool", "content": "", "tool_name": name}
    assistant = {"role": "assistant", "tool_calls": [call] * number}
    read = chat(HELLO, assistant, *[result] * (number + 1))
    ids = [made["id"] for made in read.sent["messages"][1]["tool_calls"]]
    assert [made["tool_call_id"] for made in read.sent["messages"][2:]] == [*ids, "call_0"]


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert chat(logprobs=True, top_logprobs=2.0).sent["top_logprobs"] == 2
