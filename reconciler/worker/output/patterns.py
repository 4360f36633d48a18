"""Regular expressions over what a model wrote, with a limit of time.

A completion is parsed on the event loop that answers the worker's probes, and whoever writes a
prompt can make a model write anything. Some patterns take quadratic time for some texts, such as
100,000 spaces where a name is expected.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import regex

SECONDS = 0.5
"""Time to parse the body of a call, which takes microseconds."""

_end: ContextVar[float | None] = ContextVar("end", default=None)
"""Deadline of the searches, on the monotonic clock [s]."""


@contextmanager
def limited() -> Iterator[None]:
    """Limit the time of all searches in the block: they raise TimeoutError after it."""
    token = _end.set(time.monotonic() + SECONDS)
    try:
        yield
    finally:
        _end.reset(token)


def _left() -> float | None:
    end = _end.get()
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time of a call is used up")
    return left


class Pattern:
    """A compiled pattern, whose methods are those of `re.Pattern`."""

    def __init__(self, pattern: str, flags: int = 0) -> None:
        self._pattern: Any = regex.compile(pattern, flags)

    def match(self, text: str, at: int = 0) -> Any:
        """Match at a position."""
        return self._pattern.match(text, at, timeout=_left())

    def fullmatch(self, text: str) -> Any:
        """Match the whole text."""
        return self._pattern.fullmatch(text, timeout=_left())

    def search(self, text: str, at: int = 0) -> Any:
        """Find the first match from a position on."""
        return self._pattern.search(text, at, timeout=_left())

    def finditer(self, text: str) -> Any:
        """Find all matches."""
        return self._pattern.finditer(text, timeout=_left())

    def findall(self, text: str) -> Any:
        """Find the groups of all matches."""
        return self._pattern.findall(text, timeout=_left())
