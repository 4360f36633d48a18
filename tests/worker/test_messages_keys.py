"""Test the translation of the keys of Anthropic Messages requests."""

import json
from typing import Any

import pytest

from reconciler.worker.dialects.messages.reading import read, read_to_count
from reconciler.worker.errors import RequestError
from reconciler.worker.request import of_keys
from tests.worker.test_messages_reading import HELLO, TOOL, asked, refused, translated, used


class TestKeys:
    def test_sampling_and_stops_are_translated(self) -> None:
        keys: Any = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 7, "stream": True}
        sent = translated(stop_sequences=["a", "b"], **keys).sent
        assert {key: sent[key] for key in keys} == keys
        assert (sent["stop"], sent["max_tokens"], sent["model"]) == (["a", "b"], 10, "m")

    @pytest.mark.parametrize(
        ("keys", "param"),
        [
            ({"temperature": 1.5}, "temperature"),
            ({"temperature": "hot"}, "temperature"),
            ({"top_p": 2}, "top_p"),
            ({"top_k": -1}, "top_k"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"stop_sequences": "a"}, "stop_sequences"),
            ({"stop_sequences": [""]}, "stop_sequences[0]"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
            ({"messages": [{"content": "a"}]}, "messages[0].role"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
            ({"system": 5}, "system"),
            ({"system": [{"type": "image"}]}, "system[0]"),
            ({"thinking": {"type": "sometimes"}}, "thinking.type"),
            ({"thinking": True}, "thinking"),
            ({"output_config": {"effort": "none"}}, "output_config.effort"),
            ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ],
    )
    def test_an_invalid_value_is_refused_with_its_key(self, keys: Any, param: str) -> None:
        message, found = refused(**keys)
        assert found == param
        assert message.startswith(param)

    @pytest.mark.parametrize("key", ["max_tokens", "messages"])
    def test_required_keys_must_be_present(self, key: str) -> None:
        body = asked()
        del body[key]
        with pytest.raises(RequestError, match=f"^{key} is missing") as error:
            read(body)
        assert (error.value.code, error.value.param) == ("missing_required_parameter", key)

    def test_keys_that_clients_always_send_pass_and_others_are_reported(self) -> None:
        keys: Any = {
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
            "cache_control": {"type": "ephemeral"},
            "container": None,
            "mcp_servers": [],
        }
        assert translated(**keys).warnings == []
        found = translated(mcp_servers=[{"name": "x"}], output_config={"task_budget": {}}, magic=1)
        assert found.warnings == [
            "mcp_servers: has no effect here; ignored",
            "magic: has no effect here; ignored",
            "output_config.task_budget: has no effect here; ignored",
        ]

    @pytest.mark.parametrize(
        ("keys", "expected"),
        [
            ({}, {}),
            ({"thinking": {"type": "adaptive"}}, {}),
            ({"thinking": {"type": "enabled"}}, {"enable_thinking": True}),
            ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}),
            ({"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
            (
                {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
                {"reasoning_effort": "max"},
            ),
            (
                {"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}},
                {"enable_thinking": False},
            ),
        ],
    )
    def test_reasoning_is_enabled_as_requested(self, keys: Any, expected: Any) -> None:
        sent = translated(**keys).sent
        found = {k: sent[k] for k in ("enable_thinking", "reasoning_effort") if k in sent}
        assert found == expected

    def test_a_budget_applies_only_if_reasoning_is_enabled(self) -> None:
        enabled = {"type": "enabled", "budget_tokens": 2000}
        assert translated(thinking=enabled).sent["thinking_budget"] == 2000
        for other in ({"type": "adaptive"}, {"type": "disabled"}, {"type": "enabled"}):
            assert translated(thinking=other).sent.get("thinking_budget") is None

    def test_a_schema_is_read_from_both_keys(self) -> None:
        form = {"type": "json_schema", "schema": {"type": "object"}}
        for keys in ({"output_config": {"format": form}}, {"output_format": form}):
            body = of_keys(translated(**keys).sent, chat=True)
            assert body.constraint is not None
            assert body.constraint.is_json
        message, param = refused(output_config={"format": form}, output_format=form)
        assert param == "output_format"
        assert "exclude each other" in message

    def test_zero_max_tokens_warms_the_prompt_cache(self) -> None:
        found = translated(max_tokens=0)
        assert (found.sent["max_tokens"], found.echo["max_tokens"]) == (1, 0)

    def test_a_token_count_needs_no_max_tokens_and_has_the_same_prompt(self) -> None:
        body = asked(system="Be kind.", tools=[TOOL], thinking={"type": "adaptive"})
        whole = read(body).sent
        del body["max_tokens"]
        counted = read_to_count(body).sent
        assert counted["messages"] == whole["messages"]
        assert counted["tools"] == whole["tools"]


def test_whole_numbers_may_be_written_as_floats() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024.0}
    call = used("weather", "1", degrees=21.0)
    messages = [HELLO[0], {"role": "assistant", "content": [call]}]
    sent = translated(messages, max_tokens=2000.0, top_k=5.0, thinking=thinking).sent
    assert (sent["max_tokens"], sent["top_k"]) == (2000, 5)
    # Text that a model reads is not changed.
    assert '"degrees": 21.0' in json.dumps(sent["messages"][1])
    assert refused(max_tokens=1.5)[1] == "max_tokens"
