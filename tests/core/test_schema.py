"""Mistakes in words, and what a checked body means."""

import pytest

from reconciler.core.records import Asked, LoadRequest
from reconciler.core.schema import NAMES, check, contradictions, load_request, schema


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
            {"model": "m", "instance_id": "a b"},
            "invalid_value",
            "instance_id",
            "must be a letter or digit",
        ),
    ],
)
def test_a_mistake_names_the_key_and_what_it_should_be(
    body: object, code: str, param: str, words: str
) -> None:
    (mistake,) = check("load-request", body)
    assert (mistake.code, mistake.param) == (code, param)
    assert words in mistake.message


def test_every_missing_key_is_told_once() -> None:
    mistakes = check("manifest", {})
    assert sorted(m.param for m in mistakes) == ["apiVersion", "kind", "metadata", "spec"]


def test_a_request_tells_sent_reset_and_omitted_keys_apart() -> None:
    config = {"context_length": 16384.0, "num_experts": None, "flash_attention": False}
    body = {"model": "m", "instance_id": "i", "config": config}
    assert check("load-request", body) == ()
    expected = LoadRequest(
        "m", Asked(context_length=16384, flash_attention=False), frozenset({"num_experts"}), "i"
    )
    request = load_request(body)
    assert request == expected
    assert type(request.config.context_length) is int


def test_settings_may_stand_nested_flat_or_both() -> None:
    body = {"model": "m", "context_length": 5, "config": {"context_length": 5, "num_experts": 2}}
    assert (check("load-request", body), contradictions(body)) == ((), ())
    assert load_request(body).config == Asked(context_length=5, num_experts=2)


def test_two_values_for_one_setting_are_a_mistake() -> None:
    body = {"model": "m", "num_experts": None, "config": {"num_experts": 2}}
    (mistake,) = contradictions(body)
    assert mistake.param == "num_experts"
    assert "config.num_experts is 2" in mistake.message


@pytest.mark.parametrize("name", ["a", "openai/gpt-oss-20b", "A.b_c@d:e-1/2", "a" * 200])
def test_names_that_are_taken(name: str) -> None:
    assert check("load-request", {"model": "m", "instance_id": name}) == ()


@pytest.mark.parametrize("name", ["", "/a", "-a", ".a", "a b", "a\n", "ä", "a" * 201, "a?b"])
def test_names_that_are_refused(name: str) -> None:
    assert check("load-request", {"model": "m", "instance_id": name}) != ()


@pytest.mark.parametrize("name", NAMES)
def test_a_published_schema_names_itself(name: str) -> None:
    assert schema(name)["$id"] == f"{name}.schema.json"
