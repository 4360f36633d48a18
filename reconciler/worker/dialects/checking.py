"""Validate a request's body against its dialect's types, with errors that name the client's
keys."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from reconciler.worker.errors import RequestError

T = TypeVar("T")

LONGEST_NAME = 80
"""Maximum characters of a key quoted in a message."""


def checked(sent: Mapping[str, Any], kind: type[T]) -> T:
    """Convert the body to a type. Raises `RequestError`."""
    try:
        return msgspec.convert(with_integers(sent), kind)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".")
        missing = "missing required field" in words
        code = "missing_required_parameter" if missing else "invalid_value"
        raise RequestError(f"{param or 'the body'}: {words}", code, param or None) from None


def with_integers(sent: Mapping[str, Any], *inside: str) -> dict[str, Any]:
    """Convert integral floats such as 100.0 to integers, for clients without an integer type.

    Converts top-level values and those of the objects named in `inside`; data for the model is left
    unchanged.
    """
    made = {key: _integer(value) for key, value in sent.items()}
    for key in inside:
        if isinstance(made.get(key), dict):
            made[key] = with_integers(made[key])
    return made


def _integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def unknown(sent: Mapping[str, Any], known: Iterable[str], place: str = "") -> Iterator[str]:
    """Warnings about unknown keys whose value is not null."""
    names = frozenset(known)
    for name, value in sent.items():
        if name not in names and value is not None:
            yield f"{place}{name[:LONGEST_NAME]}: unknown key, ignored"
