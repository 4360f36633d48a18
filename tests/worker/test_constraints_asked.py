"""Test how constraints are read from requests."""

import re
from datetime import datetime
from typing import Any

import msgspec
import pytest

from reconciler.worker.constraints import asked as reader
from reconciler.worker.constraints.asked import Constraint
from reconciler.worker.constraints.compiling import GrammarError, check, schema_grammar
from reconciler.worker.constraints.formats import with_patterns
from reconciler.worker.errors import RequestError
from reconciler.worker.request import parse

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
CYCLE = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
UNIQUE = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}


def tool(name: str = "f", parameters: Any = SCHEMA, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters} | more}


def asked(**keys: Any) -> Constraint | None:
    body = {"messages": [{"role": "user", "content": "x"}]} | keys
    return parse(msgspec.json.encode(body), chat=True).constraint


def refused(**keys: Any) -> RequestError:
    with pytest.raises(RequestError) as raised:
        asked(**keys)
    return raised.value


@pytest.mark.parametrize(
    "keys",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"structured_outputs": {"json": SCHEMA, "regex": None, "disable_any_whitespace": False}},
        {"guided_json": SCHEMA},
        {"guided_json": msgspec.json.encode(SCHEMA).decode()},
        {"json_schema": SCHEMA},
    ],
    ids=str,
)
def test_all_ways_to_send_a_schema_are_equivalent(keys: dict[str, Any]) -> None:
    standard = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    reference = asked(response_format=standard)
    found = asked(**keys)
    assert reference is not None
    assert found is not None
    assert (found.answer, found.is_json) == (reference.answer, True)


@pytest.mark.parametrize(
    ("keys", "same"),
    [
        ({"structured_outputs": {"regex": "a+"}}, {"guided_regex": "a+"}),
        ({"regex": "a+"}, {"guided_regex": "a+"}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"guided_choice": ["a", "b"]}),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"grammar": 'root ::= "a"'}),
        ({"ebnf": 'root ::= "a"'}, {"guided_grammar": 'root ::= "a"'}),
        (
            {"structured_outputs": {"json_object": True}},
            {"response_format": {"type": "json_object"}},
        ),
    ],
    ids=str,
)
def test_other_servers_forms_are_equivalent(keys: dict[str, Any], same: dict[str, Any]) -> None:
    one, other = asked(**keys), asked(**same)
    assert one is not None
    assert other is not None
    assert one.answer == other.answer


@pytest.mark.parametrize(
    ("keys", "param", "words"),
    [
        ({"guided_json": UNIQUE}, "guided_json", "uniqueItems"),
        ({"json_schema": {"type": "objekt"}}, "json_schema", "objekt"),
        ({"json_schema": {"$ref": "#/$defs/x"}}, "json_schema", "/$defs/x"),
        ({"json_schema": {"$ref": "file:///etc/passwd"}}, "json_schema", "file:///etc/passwd"),
        ({"json_schema": {"$ref": "#"}}, "json_schema", "no text fits it"),
        ({"json_schema": CYCLE}, "json_schema", "no text fits it"),
        ({"grammar": "start: a\na: b\nb: a"}, "grammar", "no text fits it"),
        ({"guided_json": "{"}, "guided_json", "not JSON"),
        ({"regex": "("}, "regex", "unclosed group"),
        ({"regex": "(?=a)"}, "regex", "look-around"),
        ({"grammar": 'root ::= "a" b'}, "grammar", "b"),
        ({"grammar": "root ::= ("}, "grammar", ""),
        ({"grammar": "(" * 20_000}, "grammar", ""),
        ({"guided_choice": [""]}, "guided_choice", "list of non-empty strings"),
        ({"guided_choice": ["a"] * 1001}, "guided_choice", "1001"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "exclusive"),
        ({"guided_json": SCHEMA | {"description": "x" * 600_000}}, "guided_json", "characters"),
        ({"tools": [tool()], "tool_choice": {"function": {"name": "g"}}}, "tool_choice", "'g'"),
        ({"tool_choice": "required"}, "tool_choice", "tools has none"),
        ({"tools": [tool()], "tool_choice": "f"}, "tool_choice", "required"),
        (
            {"tools": [tool(), tool("g", {"not": {}})], "tool_choice": "required"},
            "tools[1].function.parameters",
            "not",
        ),
        ({"tools": [tool("g", UNIQUE, strict=True)]}, "tools[0].function.parameters", "unique"),
        (
            {
                "messages": [{"role": "assistant", "content": "{"}],
                "continue_final_message": True,
                "guided_json": SCHEMA,
            },
            "guided_json",
            "continue",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_unenforceable_constraint_is_refused_with_its_key(
    keys: dict[str, Any], param: str, words: str
) -> None:
    error = refused(**keys)
    assert (error.status, error.param) == (400, param)
    assert words in str(error)
    assert len(str(error)) < 1000


def test_a_schema_that_exceeds_the_nesting_limit_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(40):
        schema = {"type": "array", "items": schema}
    assert asked(guided_json=schema) is not None
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    assert refused(guided_json=schema).code in ("invalid_value", "invalid_json")


@pytest.mark.long
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 999_983},
        {"type": "object", "properties": {f"k{i}": {"type": "integer"} for i in range(10_000)}},
    ],
    ids=["multipleOf", "properties"],
)
def test_a_schema_that_takes_seconds_to_compile_is_refused(schema: dict[str, Any]) -> None:
    assert "compiling it takes more than 1 s" in str(refused(guided_json=schema))


def test_the_time_to_compile_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    part = schema_grammar("answer", SCHEMA)
    with pytest.raises(GrammarError, match="compiling it takes more than"):
        check(part, 0.0)

    def unfinished(*_: Any, **__: Any) -> None:
        raise TimeoutError

    monkeypatch.setattr("reconciler.worker.constraints.compiling.bounded.call", unfinished)
    with pytest.raises(GrammarError, match="compiling it takes more than"):
        check(part)


def test_tools_share_the_time_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[float] = []

    def spend(_part: str, seconds: float) -> float:
        left.append(seconds)
        return 0.25

    monkeypatch.setattr(reader, "check", spend)
    asked(tools=[tool("f"), tool("g"), tool("h")], tool_choice="required")
    assert left == [1.0, 0.75, 0.5]


def test_only_dates_and_times_that_exist_are_allowed() -> None:
    schema = with_patterns(
        {"properties": {"format": {"format": "date-time"}}, "const": {"format": "date"}}
    )
    assert schema["const"] == {"format": "date"}
    pattern = re.compile(schema["properties"]["format"]["pattern"])
    for text in ("2024-02-29T23:59:59Z", "2000-02-29T00:00:00.5+01:00", "1999-12-31T01:02:03Z"):
        assert pattern.search(text)
        datetime.fromisoformat(text)
    for text in ("2023-02-29", "1900-02-29", "2023-04-31", "0000-01-01", "2023-13-01"):
        assert not pattern.search(f"{text}T00:00:00Z")
    assert not pattern.search("2023-01-01T23:59:60Z")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"tools": [tool(parameters=UNIQUE)]},
        {"tools": [tool(parameters=UNIQUE)], "tool_choice": "auto"},
        {"tools": [tool(strict=True)], "tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"structured_outputs": {}},
        {"structured_outputs": {"json": None}},
        {"guided_choice": []},
    ],
    ids=str,
)
def test_constraints_that_are_not_enforced_are_not_compiled(keys: dict[str, Any]) -> None:
    assert asked(**keys) is None


def test_tools_that_are_not_strict_take_any_arguments_beside_strict_ones() -> None:
    found = asked(tools=[tool("f", strict=True), tool("g", UNIQUE)])
    assert found is not None
    assert not found.forced
    assert [call.name for call in found.calls] == ["f", "g"]
    assert "uniqueItems" not in found.calls[1].part


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["f", "g"]),
        ("any", ["f", "g"]),
        ({"type": "function", "function": {"name": "g"}}, ["g"]),
        ({"type": "function", "name": "g"}, ["g"]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            },
            ["f"],
        ),
    ],
    ids=str,
)
def test_one_of_the_chosen_tools_must_be_called(choice: Any, names: list[str]) -> None:
    found = asked(tools=[tool("f"), tool("g")], tool_choice=choice)
    assert found is not None
    assert found.forced
    assert [call.name for call in found.calls] == names


def test_keys_without_effect_beside_a_grammar_are_reported() -> None:
    body = {"prompt": "x", "guided_regex": "a", "min_tokens": 5, "ignore_eos": True}
    warnings = parse(msgspec.json.encode(body), chat=False).warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["min_tokens", "ignore_eos"]
