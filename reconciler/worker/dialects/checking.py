"""A request's body against its dialect's own types, with errors that name the client's keys."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from reconciler.worker.errors import RequestError

T = TypeVar("T")

LONGEST_NAME = 80
"""Characters of a key that a message repeats."""


def checked(sent: Mapping[str, Any], kind: type[T]) -> T:
    """The body as a value of a type. Raises `RequestError`."""
    try:
        return msgspec.convert(with_integers(sent), kind)
    except msgspec.ValidationError as error:
        words, _, place = str(error).partition(" - at `$")
        param = place.rstrip("`").lstrip(".")
        missing = "missing required field" in words
        code = "missing_required_parameter" if missing else "invalid_value"
        raise RequestError(f"{param or 'the body'}: {words}", code, param or None) from None


def with_integers(sent: Mapping[str, Any], *inside: str) -> dict[str, Any]:
    """A body with 100 for 100.0, for clients that have no integers.

    Its own values, and those of the objects `inside`; what is for the model stays as it is.
    """
    made = {key: _integer(value) for key, value in sent.items()}
    for key in inside:
        if isinstance(made.get(key), dict):
            made[key] = with_integers(made[key])
    return made


def _integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def unknown(sent: Mapping[str, Any], known: Iterable[str], place: str = "") -> Iterator[str]:
    """Warnings about keys that are not known and ask for something."""
    names = frozenset(known)
    for name, value in sent.items():
        if name not in names and value is not None:
            yield f"{place}{name[:LONGEST_NAME]}: unknown key, ignored"
