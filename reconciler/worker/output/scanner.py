"""Finds where the body of a tool call ends, as its text arrives.

A mark inside a string of the body does not count, so that a call may write about calls. Each
character is looked at once: an answer without any end costs linear time.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import regex

from reconciler.worker.output.format import Region

VALUE = r"\{|\[\s*[\{\]\"']|\[\s*[A-Za-z_][\w.]*\("
"""Where the value of a balanced body begins: an object, or a list of objects or calls."""


@dataclass(frozen=True)
class End:
    """Where a body ends: `start` to `stop` is the closing mark."""

    start: int
    stop: int


class Scanner:
    """Scans the body of one call of a region."""

    def __init__(self, region: Region, *, strings: bool = True) -> None:
        """Without `strings` every mark counts: for a body with a string that is never closed."""
        self.region = region
        self._before, self._outside, self._inside = _patterns(region, strings=strings)
        self._begun = not region.balanced
        self._string: int | None = None
        self._depth = 0
        self.in_string = False

    def scan(self, text: str, position: int, *, final: bool) -> tuple[End | None, int]:
        """The end, if it is in the text; else up to where the text is done with.

        `final`: no more text will come, so that nothing is the beginning of a mark.
        """
        while True:
            if self._string is not None:
                pattern = self._inside[self._string]
            else:
                pattern = self._outside if self._begun else self._before
            found = pattern.search(text, position, partial=not final)
            if found is None:
                return None, len(text)
            if found.partial:
                return None, found.start()
            end = self._take(found)
            if end is not None:
                return end, end.stop
            # The bracket with which the value begins counts as one.
            position = found.start() if found.lastgroup == "begin" else found.end()

    def _take(self, found: Any) -> End | None:
        """A mark, a bracket or an edge of a string; the end if it is that."""
        name = found.lastgroup
        if self._string is not None:
            if name == "out":
                self._string, self.in_string = None, False
        elif name == "close":
            return End(found.start(), found.end())
        elif name == "begin":
            self._begun = True
        elif name == "up":
            self._depth += 1
        elif name == "down":
            self._depth -= 1
            if self._depth <= 0:
                return End(found.end(), found.end())
        elif name is not None:
            self._string, self.in_string = int(name[1:]), True
        return None


@cache
def _patterns(region: Region, *, strings: bool) -> tuple[Any, Any, tuple[Any, ...]]:
    """What counts before the value, outside strings, and inside each kind of string."""
    outside = []
    if region.closes:
        outside.append(f"(?P<close>{region.closes})")
    if not region.keeps_open:  # the next call begins although this one was not closed
        outside.append(f"(?P<close>(?={region.opens}))")
    before = [*outside, f"(?P<begin>{VALUE})"]
    kinds = region.strings if strings else ()
    outside += [f"(?P<s{i}>{quotes.opens})" for i, quotes in enumerate(kinds)]
    if region.balanced:
        outside += [r"(?P<up>[\[{(])", r"(?P<down>[\]})])"]
    inside = [
        f"(?P<skip>{quotes.escape})|(?P<out>{quotes.closes})"
        if quotes.escape
        else f"(?P<out>{quotes.closes})"
        for quotes in kinds
    ]
    return (
        _compile("|".join(before)),
        _compile("|".join(outside)),
        tuple(_compile(pattern) for pattern in inside),
    )


def _compile(pattern: str) -> Any:
    return regex.compile(pattern, regex.DOTALL)
