"""Validate parts of a request against their types."""

from typing import Any, TypeVar

import msgspec

from reconciler.worker.errors import RequestError

T = TypeVar("T")


def converted(value: Any, kind: type[T], place: str) -> T:
    """Convert the value to a type. Raises `RequestError` with the key `place`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        words, _, inside = str(error).partition(" - at `$")
        param = place + inside.rstrip("`")
        missing = "missing required field" in words
        code = "missing_required_parameter" if missing else "invalid_value"
        raise RequestError(f"{param}: {words}", code, param) from None


def unknown(sent: dict[str, Any], known: tuple[str, ...], place: str) -> list[str]:
    """Warnings about unknown keys whose value is not null."""
    return [
        f"{place}.{name[:80]}: unknown key, ignored"
        for name, value in sent.items()
        if name not in known and value is not None
    ]
