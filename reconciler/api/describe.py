"""What a route takes and answers, written down beside its handler.

`openapi` tells it to the world; the tests hold real answers against it.
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
    """One route. Answers of 400 and more are in the one form of errors, unless given here."""

    summary: str
    answers: dict[int, dict[str, Any]]
    body: SchemaName | None = None
    query: tuple[Query, ...] = ()
    content_type: str = "application/json"
    error: dict[str, Any] | None = None
    """The form of its errors, where it is another one."""


OPERATIONS: dict[Any, Operation] = {}
"""By handler."""


def describe(answers: dict[int, dict[str, Any]], **more: Any) -> Callable[[H], H]:
    """Describe a handler, whose docstring's first line is the summary; `more` as in `Operation`."""

    def note(handler: H) -> H:
        summary = (handler.__doc__ or "").strip().splitlines()[0]
        OPERATIONS[handler] = Operation(summary, answers, **more)
        return handler

    return note


def ref(name: SchemaName) -> dict[str, Any]:
    """A published schema."""
    return {"$ref": f"{name}.schema.json"}


def many(key: str, name: SchemaName) -> dict[str, Any]:
    """An object with a list under `key`."""
    return {
        "type": "object",
        "required": [key],
        "additionalProperties": False,
        "properties": {key: {"type": "array", "items": ref(name)}},
    }
