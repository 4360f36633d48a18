"""Node selectors."""

from typing import Any

import pytest

from reconciler.core.schema import check, load_spec, spec_json
from reconciler.core.selector import Requirement, selector, selector_json, unmet

STUDIO = {"chip": "Apple M4 Max", "memory_gb": "64", "role": "prod", "os": "macos"}

MET: list[Any] = [
    {},
    {"chip": "Apple M4 Max"},
    {"memory_gb": 64, "role": "prod"},
    [{"key": "role", "operator": "In", "values": ["test", "prod"]}],
    [{"key": "role", "operator": "NotIn", "values": ["test"]}],
    [{"key": "rack", "operator": "NotIn", "values": ["1"]}],
    [{"key": "role", "operator": "Exists"}],
    [{"key": "rack", "operator": "DoesNotExist"}],
    [{"key": "memory_gb", "operator": "Gt", "values": [32]}],
    [{"key": "memory_gb", "operator": "Lt", "values": ["64.5"]}],
]

UNMET: list[tuple[Any, str]] = [
    (
        {"chip": "Apple M1"},
        "meant for nodes with chip In Apple M1; this node has chip Apple M4 Max",
    ),
    ({"rack": "1"}, "meant for nodes with rack In 1; this node has no such label"),
    ({"role": "prod", "memory_gb": 32}, "memory_gb In 32; this node has memory_gb 64"),
    ([{"key": "role", "operator": "In", "values": ["a", "b"]}], "role In a, b"),
    ([{"key": "role", "operator": "NotIn", "values": ["prod"]}], "role NotIn prod"),
    ([{"key": "rack", "operator": "Exists"}], "rack Exists; this node has no such label"),
    ([{"key": "role", "operator": "DoesNotExist"}], "role DoesNotExist"),
    ([{"key": "memory_gb", "operator": "Gt", "values": [64]}], "memory_gb Gt 64"),
    ([{"key": "memory_gb", "operator": "Lt", "values": [64]}], "memory_gb Lt 64"),
    ([{"key": "chip", "operator": "Gt", "values": [1]}], "chip Gt 1"),
    ([{"key": "rack", "operator": "Lt", "values": [1]}], "rack Lt 1"),
]


def manifest(value: Any) -> dict[str, Any]:
    return {
        "apiVersion": "reconciler/v1",
        "kind": "ModelInstance",
        "metadata": {"name": "a"},
        "spec": {"model": "m", "node_selector": value},
    }


@pytest.mark.parametrize("value", MET)
def test_a_selector_that_matches(value: Any) -> None:
    assert check("manifest", manifest(value)) == ()
    assert unmet(selector(value), STUDIO) is None


@pytest.mark.parametrize(("value", "why"), UNMET)
def test_a_selector_that_does_not_match_gives_the_reason(value: Any, why: str) -> None:
    assert check("manifest", manifest(value)) == ()
    assert why in str(unmet(selector(value), STUDIO))


@pytest.mark.parametrize("value", [*MET, *(value for value, _ in UNMET)])
def test_a_selector_survives_serialization(value: Any) -> None:
    assert selector(selector_json(selector(value))) == selector(value)
    spec = load_spec(manifest(value)["spec"])
    assert load_spec(spec_json(spec)) == spec
    assert check("spec", spec_json(spec)) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("chip", "spec.node_selector must be object or array"),
        ({"chip": ["a"]}, "spec.node_selector.chip must be string or number or boolean"),
        ([{"key": "a", "operator": "Is"}], "must be one of In, NotIn"),
        ([{"key": "a", "operator": "In"}], "missing required key 'spec.node_selector[0].values'"),
        ([{"key": "a", "operator": "In", "values": []}], "must have at least 1 item"),
        ([{"key": "a", "operator": "Exists", "values": ["b"]}], "must have at most 0 items"),
        ([{"key": "a", "operator": "Gt", "values": ["x"]}], "must match"),
        ([{"key": "a", "operator": "Lt", "values": [1, 2]}], "must have at most 1 item"),
        ([{"operator": "Exists"}], "missing required key"),
    ],
)
def test_an_invalid_selector_is_refused(value: Any, message: str) -> None:
    messages = [m.message for m in check("manifest", manifest(value))]
    assert any(message in one for one in messages), messages


def test_the_reason_is_bounded() -> None:
    why = unmet((Requirement("role", "In", ("v" * 100_000,)),), {})
    assert why is not None
    assert len(why) <= 300


@pytest.mark.parametrize("number", [6.66957076066871e16, 1e-7, -1.5e300, 2.5, 3.0])
def test_a_number_keeps_a_form_that_the_schema_accepts(number: float) -> None:
    spec = {"model": "m", "node_selector": [{"key": "k", "operator": "Gt", "values": [number]}]}
    shown = spec_json(load_spec(spec))
    assert check("spec", shown) == ()
    assert float(shown["node_selector"][0]["values"][0]) == number
