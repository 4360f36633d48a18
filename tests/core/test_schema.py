"""Messages about violations, and conversion of valid bodies."""

from typing import Any

import pytest

from reconciler.core.defaults import Defaults
from reconciler.core.records import LoadRequest, RequestedSettings
from reconciler.core.schema import (
    MAX_MISTAKES,
    NAMES,
    SHOWN,
    SchemaName,
    check,
    contradictions,
    load_request,
    load_spec,
    schema,
    spec_json,
)


@pytest.mark.parametrize(
    ("body", "code", "param", "words"),
    [
        ({}, "missing_required_parameter", "model", "missing required key 'model'"),
        ({"model": "m", "x": 1}, "unrecognized_keys", "x", "Unrecognized key(s) in object: 'x'"),
        ({"model": 5}, "invalid_value", "model", "model must be string, got 5"),
        ({"model": ""}, "invalid_value", "model", "model must not be empty"),
        ([], "invalid_value", "", "the body must be object, got []"),
        (
            {"model": "m", "config": {"context_length": 0}},
            *("invalid_value", "config.context_length", "must be at least 1, got 0"),
        ),
        (
            {"model": "m", "config": {"context_length": 1.5}},
            *("invalid_value", "config.context_length", "must be integer or null, got 1.5"),
        ),
        (
            {"model": "m", "config": {"context_length": True}},
            *("invalid_value", "config.context_length", "must be integer or null, got true"),
        ),
        (
            {"model": "m", "config": {"flash_attention": "yes"}},
            *("invalid_value", "config.flash_attention", "must be boolean or null"),
        ),
        (
            {"model": "m", "config": {"contextLength": 5}},
            *("unrecognized_keys", "config.contextLength", "known keys: context_length,"),
        ),
        (
            {"model": "m", "defaults": {"temperature": 3}},
            *("invalid_value", "defaults.temperature", "must be at most 2, got 3"),
        ),
        (
            {"model": "m", "defaults": {"min_p": 1}},
            *("invalid_value", "defaults.min_p", "must be less than 1, got 1"),
        ),
        (
            {"model": "m", "defaults": {"max_tokens": 0}},
            *("invalid_value", "defaults.max_tokens", "must not be 0"),
        ),
        (
            {"model": "m", "defaults": {"temprature": 1}},
            *("unrecognized_keys", "defaults.temprature", "known keys: temperature, top_p,"),
        ),
        (
            {"model": "m", "defaults": {"reasoning_effort": "lots"}},
            *("invalid_value", "defaults.reasoning_effort", "none, minimal, low, medium, high"),
        ),
        (
            {"model": "m", "defaults": {"chat_template_kwargs": {"a": float("nan")}}},
            *("invalid_value", "defaults.chat_template_kwargs.a", "must be a finite number"),
        ),
        (
            {"model": "m", "defaults": {"chat_template_kwargs": {"a": [2**64]}}},
            *("invalid_value", "defaults.chat_template_kwargs.a[0]", "at most 64 bits"),
        ),
        (
            {"model": "m", "instance_id": "a b"},
            "invalid_value",
            "instance_id",
            "must be a letter or digit",
        ),
    ],
)
def test_a_violation_names_the_key_and_the_expected_value(
    body: object, code: str, param: str, words: str
) -> None:
    (mistake,) = check("load-request", body)
    assert (mistake.code, mistake.param) == (code, param)
    assert words in mistake.message


def test_every_missing_key_is_reported_once() -> None:
    mistakes = check("manifest", {})
    assert sorted(m.param for m in mistakes) == ["apiVersion", "kind", "metadata", "spec"]


def test_a_request_distinguishes_sent_reset_and_omitted_keys() -> None:
    config = {"context_length": 16384.0, "num_experts": None, "flash_attention": False}
    body = {"model": "m", "instance_id": "i", "config": config}
    assert check("load-request", body) == ()
    expected = LoadRequest(
        "m",
        RequestedSettings(context_length=16384, flash_attention=False),
        frozenset({"num_experts"}),
        "i",
    )
    request = load_request(body)
    assert request == expected
    assert type(request.config.context_length) is int


def test_a_value_nested_too_deep_is_a_violation_at_its_path() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    body = {"model": "m", "defaults": {"chat_template_kwargs": {"a": deep}}}
    (mistake,) = check("load-request", body)
    assert "nested deeper than 50 levels" in mistake.message


def test_defaults_and_adapter_are_part_of_a_request_and_of_a_spec() -> None:
    defaults = {"temperature": 1, "top_k": 20.0, "seed": None, "chat_template_kwargs": {"a": 1}}
    body = {"model": "m", "defaults": defaults, "adapter": None}
    assert check("load-request", body) == ()
    request = load_request(body)
    expected = Defaults(temperature=1.0, top_k=20, chat_template_kwargs={"a": 1})
    assert request.defaults == expected
    assert request.resets == {"defaults.seed", "adapter"}
    assert type(request.defaults.top_k) is int
    spec = {"model": "m", "config": {}, "defaults": {"temperature": 0.5}, "adapter": "p/a"}
    assert spec_json(load_spec(spec)) == spec


def test_drafts_are_part_of_a_request_and_of_a_spec() -> None:
    body = {"model": "m", "draft_model": None, "prompt_lookup": False}
    assert check("load-request", body) == ()
    request = load_request(body)
    assert (request.draft_model, request.prompt_lookup) == (None, False)
    assert request.resets == {"draft_model"}
    spec = {"model": "m", "config": {}, "draft_model": "p/d", "prompt_lookup": False}
    assert spec_json(load_spec(spec)) == spec
    (mistake,) = check("load-request", {"model": "m", "draft_model": ""})
    assert mistake.param == "draft_model"


def test_settings_may_be_nested_flat_or_both() -> None:
    body = {"model": "m", "context_length": 5, "config": {"context_length": 5, "num_experts": 2}}
    assert (check("load-request", body), contradictions(body)) == ((), ())
    assert load_request(body).config == RequestedSettings(context_length=5, num_experts=2)


def test_two_values_for_one_setting_are_a_violation() -> None:
    body = {"model": "m", "num_experts": None, "config": {"num_experts": 2}}
    (mistake,) = contradictions(body)
    assert mistake.param == "num_experts"
    assert "config.num_experts is 2" in mistake.message


@pytest.mark.parametrize("name", ["a", "openai/gpt-oss-20b", "A.b_c@d:e-1/2", "a" * 200])
def test_valid_names_of_records(name: str) -> None:
    assert check("load-request", {"model": "m", "instance_id": name}) == ()


@pytest.mark.parametrize("name", ["", "/a", "-a", ".a", "a b", "a\n", "ä", "a" * 201, "a?b"])
def test_invalid_names_of_records(name: str) -> None:
    assert check("load-request", {"model": "m", "instance_id": name}) != ()


@pytest.mark.parametrize("name", NAMES)
def test_a_published_schema_names_itself(name: str) -> None:
    assert schema(name)["$id"] == f"{name}.schema.json"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("plan-request", {"delete": [0] * 480_000}, "delete must have at most 1000 items"),
        ("plan-request", {"apply": [{"a": 1}] * 100_000}, "apply must have at most 1000 items"),
        (
            "plan-request",
            {"source": {"name": "git", "records": [0] * 100_000, "more": 1}},
            "source.records must have at most 1000 items",
        ),
        (
            "load-request",
            {"model": "m", "defaults": {"chat_template_kwargs": {str(i): i for i in range(9999)}}},
            "defaults.chat_template_kwargs must have at most 50 keys",
        ),
        ("load-request", {"model": "m" * 900_000}, "model must be at most 500 characters long"),
    ],
)
def test_an_array_that_is_too_long_is_rejected_before_its_items_are_checked(
    name: SchemaName, value: Any, message: str
) -> None:
    assert [m.message for m in check(name, value)] == [message]


def test_at_most_a_hundred_errors_are_listed() -> None:
    wrong = [{"nme": i, "spec": {"mdel": "m"}} for i in range(1000)]
    for value in ({"apply": wrong}, {f"key{i}": 1 for i in range(60_000)}):
        assert len(check("plan-request", value)) == MAX_MISTAKES


def test_a_long_key_is_not_repeated_in_full() -> None:
    (mistake,) = check("unload-request", {"instance_id": "a", "k" * 900_000: 1})
    assert len(mistake.message) < 500
    assert len(mistake.param) <= SHOWN
