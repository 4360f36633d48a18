"""Finds the end of a tool call's body, as its text arrives.

Marks inside strings of the body are ignored, so that a call may contain text about calls. Each
character is scanned once: a body without an end takes linear time.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import regex

from reconciler.worker.output.format import LONGEST_MARK, Region

VALUE = r"\{|\[\s{0,32}[\{\]\"']|\[\s{0,32}[A-Za-z_][\w.]{0,99}\("
"""Beginning of the value of a balanced body: an object, or a list of objects or calls."""


@dataclass(frozen=True)
class End:
    """End of a body: `start` to `stop` is the closing mark."""

    start: int
    stop: int


class Scanner:
    """Scans the body of one call."""

    def __init__(self, region: Region, *, strings: bool = True) -> None:
        """Without `strings`, marks inside strings count too: for a body with an unclosed string."""
        self.region = region
        self._before, self._outside, self._inside = _patterns(region, strings=strings)
        self._begun = not region.balanced
        self._string: int | None = None
        self._depth = 0
        self.in_string = False

    def scan(self, text: str, position: int, *, final: bool) -> tuple[End | None, int]:
        """Return the end, if the text has it, and the position up to which the text is scanned.

        `final`: no text follows, so that nothing is the beginning of a mark.
        """
        while True:
            if self._string is not None:
                pattern = self._inside[self._string]
            else:
                pattern = self._outside if self._begun else self._before
            found = pattern.search(text, position, partial=not final)
            if found is None:
                return None, len(text)
            if found.partial and len(text) - found.start() <= LONGEST_MARK:
                return None, found.start()
            if found.partial:  # too long for a mark
                position = found.start() + 1
                continue
            end = self._take(found)
            if end is not None:
                return end, end.stop
            # The first bracket of the value is scanned again, to be counted.
            position = found.start() if found.lastgroup == "begin" else found.end()

    def _take(self, found: Any) -> End | None:
        """Process a mark, a bracket or a quote; return the end of the body if it is one."""
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
    """Patterns to search before the value, outside strings, and inside each kind of string."""
    outside = []
    if region.closes:
        outside.append(f"(?P<close>{region.closes})")
    if not region.keeps_open:  # the next call ends one that was not closed
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
