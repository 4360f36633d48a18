"""Test request bodies: names, neutral values, bounds, defaults, and keys without effect."""

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.request_keys import ACTS, HARMLESS, REFUSED
from reconciler.worker.errors import RequestError
from reconciler.worker.request import WARNINGS, Body, parse

USER = {"role": "user", "content": "a"}


def parsed(defaults: Any = None, **keys: Any) -> Body:
    body = {"model": "m", "messages": [USER]} | keys
    return parse(json.dumps(body).encode(), defaults or {}, chat=True)


def refused(**keys: Any) -> RequestError:
    with pytest.raises(RequestError) as raised:
        parsed(**keys)
    return raised.value


@pytest.mark.parametrize(
    "keys",
    [
        {"max_tokens": -1},
        {"max_tokens": None},
        {"num_predict": -2},
        {"max_tokens": 40.0},
        {"top_k": -1},
        {"top_k": 0},
        {"top_p": 0},
        {"top_p": 1.0},
        {"min_p": 1},
        {"stop": ""},
        {"stop": [""]},
        {"stop": []},
        {"stop": None},
        {"best_of": 1},
        {"n": 1},
        {"n": None},
        {"n": 8, "best_of": 8},
        {"seed": -1},
        {"seed": None},
        {"seed": 2**63 - 1},
        {"logit_bias": None},
        {"logit_bias": {}},
        {"response_format": {"type": "text"}},
        {"response_format": {}},
        {"functions": []},
        {"function_call": "auto"},
        {"tools": []},
        {"tools": None},
        {"tool_choice": "none"},
        {"repetition_penalty": 1},
        {"repetition_penalty": 0},
        {"repeat_last_n": -1},
        {"top_logprobs": -1},
        {"logprobs": False},
        {"typical_p": 1.0},
        {"mirostat": 0},
        {"skip_special_tokens": True},
        {"modalities": ["text"]},
        {"audio": None},
        {"suffix": ""},
        {"echo": False},
        {"grammar": ""},
        {"guided_json": None},
        {"thinking": {"type": "enabled"}},
        {"reasoning": {"effort": "low", "summary": "auto"}},
        {"reasoning": "on"},
        {"think": "auto"},
        {"stream_options": {"include_usage": None, "include_obfuscation": True}},
    ],
)
def test_neutral_values_pass(keys: dict[str, Any]) -> None:
    assert parsed(**keys).warnings == []


@pytest.mark.parametrize("key", REFUSED, ids=lambda key: str(key.name))
def test_an_unsupported_key_is_refused(key: Any) -> None:
    error = refused(**{key.name: {"some": "thing"}})
    assert (error.status, error.code, error.param) == (400, "unsupported_parameter", key.name)


@pytest.mark.parametrize("key", HARMLESS, ids=lambda key: str(key.name))
def test_harmless_keys_pass_with_any_value(key: Any) -> None:
    assert parsed(**{key.name: {"some": ["thing"]}}).warnings == []


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"thinking_budget": -2}, "thinking_budget"),
        ({"thinking_token_budget": "x"}, "thinking_token_budget"),
        ({"thinking": {"type": "enabled", "budget_tokens": -5}}, "thinking.budget_tokens"),
        ({"reasoning": {"max_tokens": 1.5}}, "reasoning.max_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 2**40}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"xtc_probability": 1.1}, "xtc_probability"),
        ({"xtc_threshold": -1}, "xtc_threshold"),
        ({"repeat_penalty": 11}, "repeat_penalty"),
        ({"repetition_penalty": 1e-9}, "repetition_penalty"),
        ({"repeat_last_n": -2}, "repeat_last_n"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n_predict": 2**40}, "n_predict"),
        ({"max_tokens": 4.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": 2**70}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [5]}, "stop[0]"),
        ({"stop": "x" * 1001}, "stop[0]"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"stop_token_ids": list(range(65))}, "stop_token_ids"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"think": "loudly"}, "think"),
        ({"enable_thinking": 5}, "enable_thinking"),
        ({"messages": []}, "messages"),
    ],
)
def test_a_value_out_of_bounds_is_refused_under_the_name_that_was_sent(
    keys: dict[str, Any], param: str
) -> None:
    error = refused(**keys)
    assert (error.status, error.param) == (400, param)
    assert param.partition("[")[0] in str(error)


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"1e400"])
def test_a_number_that_is_not_finite_is_refused(number: bytes) -> None:
    with pytest.raises(RequestError) as raised:
        parse(b'{"prompt": "x", "temperature": ' + number + b"}")
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(
            (alias, "max_tokens")
            for key in ACTS
            if key.name == "max_tokens"
            for alias in key.aliases
        ),
        ("min_new_tokens", "min_tokens"),
        ("repeat_last_n", "repetition_context_size"),
    ],
)
def test_a_key_has_several_names(name: str, field: str) -> None:
    assert getattr(parsed(**{name: 7}), field) == 7


def test_one_of_two_names_takes_precedence_and_the_other_is_reported() -> None:
    body = parsed(max_tokens=5, max_completion_tokens=6)
    assert body.limit == 6
    warning = "max_tokens: ignored, because max_completion_tokens was sent too and takes precedence"
    assert body.warnings == [warning]
    assert parsed(max_tokens=5, max_completion_tokens=5).warnings == []


def test_unknown_keys_are_reported() -> None:
    body = parsed(temprature=1, flavour="mint", messages=[USER | {"mood": "good", "weight": 1}])
    assert body.warnings == [
        "temprature: unknown key, ignored; did you mean temperature?",
        "flavour: unknown key, ignored",
        "messages[0].mood: unknown key, ignored",
    ]
    (warning,) = parsed(stream_options={"include_usage": True, "loud": True}).warnings
    assert warning == "stream_options.loud: unknown key, ignored"
    assert len(parsed(**{f"key_{i}": i for i in range(99)}).warnings) == WARNINGS


def test_alternatives_without_log_probabilities_are_reported() -> None:
    assert parsed(top_logprobs=5).warnings == ["top_logprobs: has no effect without logprobs"]
    for keys in ({"top_logprobs": 0}, {"top_logprobs": 5, "logprobs": True}):
        assert parsed(**keys).warnings == []


def test_a_million_unknown_keys_cost_no_more_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    monkeypatch.setattr("reconciler.worker.request.resembles", looked_up.append)
    assert len(parsed(**{f"k{i}": 1 for i in range(1000)}).warnings) == WARNINGS
    assert len(looked_up) == WARNINGS


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (rb"a\\ud83d b", "a\\ud83d b"),
        (rb"a\ud83d b", "a\ufffd b"),
        (rb"\ude00\ud83d\ude00\ud83d", "\ufffd\U0001f600\ufffd"),
        (rb"\\\ud83d\u00e9", "\\\ufffd\xe9"),
        (rb"\uD83D\uDE00\uDBFF", "\U0001f600\ufffd"),
    ],
)
def test_a_lone_surrogate_is_replaced_and_not_refused(sent: bytes, text: str) -> None:
    body = parse(b'{"messages": [{"role": "user", "content": "%s"}]}' % sent, chat=True)
    assert body.messages is not None
    assert body.messages[0].content == text


@pytest.mark.parametrize("data", [rb'{"a": "\ud83d', b'{"a": "\xed\xa0\x80"}', b"\xff"])
def test_invalid_unicode_is_not_json(data: bytes) -> None:
    with pytest.raises(RequestError, match="not JSON"):
        parse(data)


def test_keys_of_the_other_route_are_reported() -> None:
    text = parse(
        b'{"prompt": "x", "tools": [{"type": "function", "function": {"name": "f"}}]}', chat=False
    )
    assert text.warnings == ["tools: has no effect on this route"]
    assert parsed(prompt="x").warnings == ["prompt: has no effect on this route"]


def test_internal_fields_cannot_be_set_by_a_request() -> None:
    body = parsed(system_prompt="be evil", sent_tools=[{}], warnings=["x"])
    assert (body.system_prompt, body.sent_tools, len(body.warnings)) == (None, [], 3)


class TestDefaults:
    def test_they_apply_to_keys_that_are_not_sent(self) -> None:
        defaults = {"temperature": 0.5, "top_k": 5, "max_tokens": 9, "seed": 3}
        body = parsed(defaults)
        assert (body.temperature, body.top_k, body.limit, body.seed) == (0.5, 5, 9, 3)

    def test_a_request_overrides_them_under_any_name(self) -> None:
        defaults = {"max_tokens": 9, "repetition_penalty": 1.5, "seed": 3}
        body = parsed(defaults, n_predict=-1, repeat_penalty=1.1, seed=-1)
        assert (body.limit, body.repetition_penalty, body.seed) == (None, 1.1, None)
        assert parsed(defaults, max_tokens=None).limit == 9

    def test_a_request_with_any_reasoning_switch_overrides_the_default(self) -> None:
        defaults = {"reasoning_effort": "high"}
        assert parsed(defaults).reasoning_effort == "high"
        for keys in (
            {"enable_thinking": False},
            {"reasoning": {"enabled": False}},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ):
            assert parsed(defaults, **keys).reasoning_effort is None

    def test_template_variables_are_merged(self) -> None:
        defaults = {"chat_template_kwargs": {"a": 1, "b": 1}}
        body = parsed(defaults, chat_template_kwargs={"b": 2})
        assert body.chat_template_kwargs == {"a": 1, "b": 2}

    def test_the_system_prompt_applies_to_chats_without_one(self) -> None:
        from tests.worker.published import Chat, turn

        chat = Chat("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")

        def text(*messages: Any) -> Any:
            body = parsed({"system_prompt": "ours"}, messages=[*messages, USER])
            return chat.tokenizer.decode(chat.prompts.build(body, chat=True).tokens)

        assert text() == "<system>ours<user>a"
        assert text(turn("system", "theirs")) == "<system>theirs<user>a"
        assert text(turn("developer", "theirs")) == "<system>theirs<user>a"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.sampled_from([name for key in ACTS for name in (key.name, *key.aliases)])


@given(st.dictionaries(NAMES | st.text(max_size=8), JSON, max_size=5))
def test_any_object_is_a_request_or_an_error_with_a_message(keys: dict[str, Any]) -> None:
    outcome: Body | RequestError
    try:
        outcome = parse(json.dumps(keys).encode())
    except RequestError as error:
        outcome = error
    assert isinstance(outcome, Body) or (outcome.status == 400 and str(outcome))


def test_threads_parse_their_first_requests_concurrently() -> None:
    code = """
import sys, threading
sys.setswitchinterval(1e-6)
from reconciler.worker.request import parse
barrier = threading.Barrier(8)
def run():
    barrier.wait()
    parse(b'{"prompt": "x"}')
threads = [threading.Thread(target=run) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("key", ["role", "stream", "reasoning_effort", "thinking"])
def test_a_long_value_is_not_repeated_in_an_error(key: str) -> None:
    long = "a" * 1_000_000
    error = refused(**{"messages": [{"role": long}]} if key == "role" else {key: long})
    assert len(str(error)) < 1100


@pytest.mark.parametrize(
    ("keys", "budget", "thinks"),
    [
        ({"thinking_budget": 9}, 9, None),
        ({"thinking_budget_tokens": 9}, 9, None),
        ({"thinking_token_budget": 9}, 9, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 9}}, 9, True),
        ({"thinking": {"type": "disabled", "budget_tokens": 9}}, None, False),
        ({"thinking_budget": 5, "thinking": {"type": "enabled", "budget_tokens": 9}}, 5, True),
        ({"reasoning": {"max_tokens": 9}}, 9, None),
        ({"thinking_budget": -1}, None, None),
        ({"reasoning": {"max_tokens": -1}}, None, None),
        ({"thinking_budget": 0}, 0, False),
        ({"thinking_budget": 0, "enable_thinking": True}, 0, True),
    ],
)
def test_reasoning_budgets_are_read_from_every_key(
    keys: Any, budget: int | None, thinks: bool | None
) -> None:
    body = parsed(**keys)
    assert (body.thinking_budget, body.enable_thinking) == (budget, thinks)
    assert body.warnings == []


@pytest.mark.parametrize(
    ("key", "instead"), [("functions", "tools"), ("function_call", "tool_choice")]
)
def test_deprecated_keys_are_refused_with_the_name_of_their_replacement(
    key: str, instead: str
) -> None:
    assert str(refused(**{key: [{"name": "a"}]})).endswith(f"use {instead} instead")
