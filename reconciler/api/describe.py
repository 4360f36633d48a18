"""Descriptions of routes, beside their handlers: request body, query and responses.

`openapi` publishes them; the tests validate real responses against them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from reconciler.api.errors import Handler
from reconciler.core.schema import SchemaName

H = TypeVar("H", bound=Handler)


@dataclass(frozen=True)
class Query:
    """A parameter of a query string."""

    name: str
    description: str
    schema: dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """One route. Responses of 400 or above have the standard error format, unless given here."""

    summary: str
    answers: dict[int, dict[str, Any]]
    body: SchemaName | None = None
    query: tuple[Query, ...] = ()
    content_type: str = "application/json"
    error: dict[str, Any] | None = None
    """Schema of its errors, if they have another format."""


OPERATIONS: dict[Any, Operation] = {}
"""Descriptions by handler."""


def describe(answers: dict[int, dict[str, Any]], **more: Any) -> Callable[[H], H]:
    """Describe a handler; its docstring's first line is the summary. `more`: see `Operation`."""

    def note(handler: H) -> H:
        summary = (handler.__doc__ or "").strip().splitlines()[0]
        OPERATIONS[handler] = Operation(summary, answers, **more)
        return handler

    return note


def ref(name: SchemaName) -> dict[str, Any]:
    """Reference to a published schema."""
    return {"$ref": f"{name}.schema.json"}


def many(key: str, name: SchemaName) -> dict[str, Any]:
    """Schema of an object with a list under `key`."""
    return {
        "type": "object",
        "required": [key],
        "additionalProperties": False,
        "properties": {key: {"type": "array", "items": ref(name)}},
    }
