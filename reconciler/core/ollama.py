"""Conventions of Ollama's API that both the daemon and a worker follow: names, times, lines.

Source: Ollama's API reference (docs/api.md) and `api/types.go` of version 0.33.
"""

import json
import math
import re
from datetime import UTC, datetime
from typing import Any

VERSION = "0.33.0"
"""Version of the API that is served; clients compare it with the minimum that they need."""

LATEST = ":latest"
"""Tag of a name that is written without one."""

LINES = "application/x-ndjson"
"""Content type of a streamed response: one JSON object per line."""

UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
"""Seconds per unit of Go's durations."""

_PART = re.compile(r"(\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(ns|us|µs|μs|ms|s|m|h)")
_DURATION = re.compile(rf"([+-]?)((?:{_PART.pattern}){{1,20}})")
_NUMBER = re.compile(r"[+-]?\d{1,15}(?:\.\d{0,15})?")


def without_latest(name: str) -> str:
    """A model's name without the default tag."""
    return name.removesuffix(LATEST)


def with_tag(name: str) -> str:
    """A model's name as Ollama lists it: with a tag."""
    return name if ":" in name.rpartition("/")[2] else name + LATEST


def keep_alive_seconds(value: Any) -> float | None:
    """Parse a request's `keep_alive` to seconds; infinity: forever; None: not set.

    It is a number, or a text such as `5m`, `1h30m` or `-1`. Raises ValueError.
    """
    if value is None or value == "":
        return None
    seconds = _seconds(value)
    return math.inf if seconds < 0 else seconds


def _seconds(value: Any) -> float:
    words = f"keep_alive: {str(value)[:40]!r} is not a duration; send seconds, or a text such as 5m"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        raise ValueError(words)  # noqa: TRY004  one kind of error
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(words)
    seconds = sum(float(number) * UNITS[unit] for number, unit in _PART.findall(found[2]))
    return -seconds if found[1] == "-" else seconds


def timestamp(at: datetime) -> str:
    """A time in Ollama's format."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def sign_of_life(model: str, added: dict[str, Any], at: datetime) -> bytes:
    """Keep-alive line of a streamed response; `added` holds its empty content.

    Clients skip no line, not even an empty one, so it must be a valid line. It begins with a space,
    which JSON allows, so that code that copies lines can distinguish it from content.
    """
    line = {"model": model, "created_at": timestamp(at), **added, "done": False}
    return b" " + json.dumps(line).encode() + b"\n"


NO_MESSAGE: dict[str, Any] = {"message": {"role": "assistant", "content": ""}}
"""Empty content of a line of a chat."""

NO_RESPONSE: dict[str, Any] = {"response": ""}
"""Empty content of a line of a generated text."""
