"""Validates responses against the types of the official client, which itself accepts anything."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pydantic

OURS = {"store", "warnings"}
"""Keys of a response missing from the client's types: OpenAI sends the first, we the second."""


def strictly(kind: Any, value: Any) -> Any:
    """The value as type `kind` of the client; a missing or unknown key fails the test."""
    checked = _adapter(kind).validate_python(value)
    assert list(_unknown(checked)) == []
    return checked


@cache
def _adapter(kind: Any) -> pydantic.TypeAdapter[Any]:
    """Cached adapter, since creating one takes longer than a test."""
    return pydantic.TypeAdapter(kind)


def _unknown(value: Any) -> Iterator[str]:
    if isinstance(value, pydantic.BaseModel):
        ours = OURS if type(value).__name__ == "Response" else set()
        yield from (f"{type(value).__name__}.{key}" for key in {*(value.model_extra or {})} - ours)
        for field in type(value).model_fields:
            yield from _unknown(getattr(value, field))
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _unknown(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _unknown(inner)
