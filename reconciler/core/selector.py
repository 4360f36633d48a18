"""Node selectors: requirements on the labels of the nodes that a record is meant for.

Operators and their meaning are those of Kubernetes' node selectors.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from reconciler.core.manifest import printable

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]


@dataclass(frozen=True)
class Requirement:
    """A requirement on one label."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([self.key, self.operator, ", ".join(self.values)]).rstrip()

    def met(self, labels: Mapping[str, str]) -> bool:
        """True if a node with these labels meets it. A label that is not a number is neither
        greater nor less.
        """
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt":
                return _number(value) > float(self.values[0])
            case "Lt":
                return _number(value) < float(self.values[0])


Selector = tuple[Requirement, ...]
"""Requirements that must all be met; an empty selector means every node."""


def unmet(selector: Selector, labels: Mapping[str, str]) -> str | None:
    """Description of the first requirement that these labels do not meet, or None."""
    for requirement in selector:
        if not requirement.met(labels):
            has = labels.get(requirement.key)
            so = "has no such label" if has is None else f"has {requirement.key} {has}"
            return printable(f"meant for nodes with {requirement}; this node {so}")
    return None


def selector(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Selector:
    """Convert the `node_selector` of a valid manifest."""
    if isinstance(value, Mapping):
        return tuple(Requirement(key, "In", (_text(v),)) for key, v in value.items())
    return tuple(
        Requirement(one["key"], one["operator"], tuple(map(_text, one.get("values", ()))))
        for one in value
    )


def selector_json(selector: Selector) -> dict[str, str] | list[dict[str, Any]]:
    """A selector in the form of a manifest, in the shorter one if possible."""
    if all(r.operator == "In" and len(r.values) == 1 for r in selector):
        equalities = {r.key: r.values[0] for r in selector}
        if len(equalities) == len(selector):
            return equalities
    return [
        {"key": r.key, "operator": r.operator} | ({"values": list(r.values)} if r.values else {})
        for r in selector
    ]


def _text(value: object) -> str:
    """A value as text: YAML may have read a number or a boolean.

    Numbers get no exponent, which the schema does not allow.
    """
    if isinstance(value, float):
        return f"{Decimal(repr(value)):f}"
    return value if isinstance(value, str) else json.dumps(value)


def _number(value: str | None) -> float:
    """A label as a number; NaN, for which every comparison is false, if it is not one."""
    try:
        return float(value) if value is not None else float("nan")
    except ValueError:
        return float("nan")
