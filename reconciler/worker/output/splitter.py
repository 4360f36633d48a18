"""Splits the text of a completion into content, reasoning and the bodies of tool calls.

The marks are those of an `OutputFormat`. Text is passed on as soon as it cannot be the beginning
of a mark; the body of a call is kept until its end is found. The generation prompt is read first,
without being passed on, so that a completion can begin inside reasoning. The rest of the prompt is
not read.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import regex

from reconciler.worker.output.format import LONGEST_MARK, Kind, OutputFormat, Region
from reconciler.worker.output.scanner import Scanner


@dataclass(frozen=True)
class Part:
    """A piece of a completion."""

    kind: Kind
    text: str
    """Text, or the body of a call."""
    region: Region | None = None
    """Region of the call; for other kinds, the region that begins or ends here, without text."""
    groups: dict[str, str] = field(default_factory=dict)
    """Named groups of a call's opening mark: name, id."""
    opened: str = ""
    """Opening mark of a call."""
    closed: str = ""
    """Closing mark of a call; "" if it is not closed."""


class Splitter:
    """Splits one completion."""

    def __init__(
        self, form: OutputFormat, *, calls: bool, names: Collection[str] = (), generation: str = ""
    ) -> None:
        """Without `calls`, tool calls are text. `names`: names of the offered tools."""
        self._marks = _marks(form, calls=calls)
        self._regions = form.regions
        self._seconds = form.seconds
        self._sealed = False
        """True if reasoning ends only at its closing mark, and text that has begun has no marks."""
        self._names = names
        self._region: Region | None = None
        """Current region; None in content outside every region."""
        self._buffer = ""
        self._position = 0
        self._scanner: Scanner | None = None
        self._body: list[str] = []
        self._opening: Any = None
        self._naive = False
        self._stuck = False
        """True if the last mark was empty."""
        self._wrote = False
        """True if content was written since the beginning or the last call."""
        self._line = True
        """True if the current line contains only whitespace."""
        self._reasoned = False
        """True if reasoning has ended at least once."""
        self._called = False
        self._thought = False
        """True if reasoning was written since it began."""
        self._parts: list[Part] = []
        self._unwritten = 0
        """Characters at the beginning of the buffer that the template wrote, not the model."""
        if generation:
            self.feed(generation)
            self._unwritten = len(self._buffer)
            self._wrote, self._line, self._thought = False, True, False
        self._sealed = form.sealed

    @property
    def reasoning(self) -> bool:
        """True while the completion is inside reasoning."""
        return self._region is not None and self._region.kind == "reasoning"

    @property
    def reasoned(self) -> bool:
        """True if reasoning has begun, in the completion or before it."""
        return self._reasoned or self.reasoning

    @property
    def held(self) -> str:
        """Text that was not passed on yet."""
        return "".join(self._body) + self._buffer[self._position :]

    def feed(self, text: str) -> list[Part]:
        """Add text and return the parts that are final."""
        self._buffer += text
        self._split(final=False)
        return self._take()

    def finish(self) -> list[Part]:
        """Return the remaining parts at the end. A call that is not closed has no closing mark."""
        self._drop_header()
        self._split(final=True)
        while self._scanner is not None:
            body = "".join(self._body) + self._buffer
            self._buffer = ""
            if not self._scanner.in_string or self._naive:
                self._end_call(body, "")
                break
            # An unclosed string hid the marks after it.
            self._naive = True
            self._body, self._buffer, self._position = [], body, 0
            self._scanner = Scanner(self._scanner.region, strings=False)
            self._split(final=True)
        return self._take()

    def _drop_header(self) -> None:
        """Discard the incomplete header of a message."""
        if self._scanner is not None or not any(region.headed for region in self._regions):
            return
        found = self._find(final=False)
        if found is not None and found.partial:
            held = self._buffer[max(found.start(), self._unwritten) :]
            if "|>" in held:
                self._buffer = self._buffer[: found.start()]

    def _take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _split(self, *, final: bool) -> None:
        while self._in_call(final=final) if self._scanner else self._in_text(final=final):
            pass
        self._buffer, self._position = self._buffer[self._position :], 0

    def _in_call(self, *, final: bool) -> bool:
        """Search for the end of the call. True if it was found."""
        if self._scanner is None:
            return False
        end, safe = self._scanner.scan(self._buffer, self._position, final=final)
        if end is None:
            self._body.append(self._buffer[self._position : safe])
            self._position = safe
            return False
        self._body.append(self._buffer[self._position : end.start])
        self._position = end.stop
        self._end_call("".join(self._body), self._buffer[end.start : end.stop])
        return True

    def _end_call(self, body: str, closed: str) -> None:
        region, mark = self._scanner.region if self._scanner else None, self._opening
        groups = {key: value for key, value in mark.groupdict().items() if value is not None}
        self._parts.append(Part("call", body, region, groups, mark.group(0), closed))
        self._scanner, self._body, self._region = None, [], None
        self._wrote, self._line, self._called = False, True, True

    def _in_text(self, *, final: bool) -> bool:
        """Search for a mark. True if one was found, and the search must continue."""
        start = self._position
        found = self._find(final=final)
        if found is None:
            self._write(len(self._buffer))
            return False
        if found.partial:
            self._write(found.start())
            if len(self._buffer) - self._position <= LONGEST_MARK:
                return False
            self._write(self._position + 1)
            return True
        self._write(found.start())
        if found.end() == start:  # an empty mark counts once, to make progress
            if self._stuck or str(found.lastgroup) in ("stray", "drop", "wrap"):
                self._stuck = False
                self._write(min(start + 1, len(self._buffer)))
                return self._position < len(self._buffer)
            self._stuck = True
        else:
            self._stuck = False
        if not self._open_or_close(found):
            self._write(found.end())
        keeps = self._scanner is not None and self._scanner.region.keeps_open
        self._position = found.start() if keeps else found.end()
        self._unwritten = max(0, self._unwritten - (found.end() - start))
        return True

    def _find(self, *, final: bool) -> Any:
        """Return the first mark, or a possible beginning of one at the buffer's end, or None."""
        marks, text, start = self._marks[self._region], self._buffer, self._position
        if marks.any is None:
            return None
        found = marks.any.search(text, start, partial=not final, timeout=self._seconds)
        if found is None or found.partial or final or found.start() == start:
            return found
        # A complete mark may lie inside the possible beginning of a longer one.
        for pattern in marks.each:
            longer = pattern.search(text, start, partial=True, timeout=self._seconds)
            if longer is not None and longer.partial and longer.start() < found.start():
                return longer
        return found

    def _open_or_close(self, found: Any) -> bool:
        """Apply a mark. False if it is text here."""
        name = str(found.lastgroup)
        if self._sealed and (name not in ("close", "again") if self.reasoning else self._wrote):
            return False
        if name == "close":
            self._reasoned = self._reasoned or self.reasoning
            if self._region is not None and self._region.kind == "content":
                self._parts.append(Part("content", "", self._region))
            self._region, self._line = None, True
            return True
        if name == "stray":  # closing mark without an opening one: text after reasoning has ended
            stray, self._reasoned = not self._reasoned, True
            return stray or not self._wrote
        if name == "drop":
            return self._called and not self._wrote
        if name == "wrap":
            return True
        if name == "again":  # the template opened reasoning, and the model opens it again
            return not self._thought
        region = self._regions[int(name[1:])]
        if not self._opens(region, found):
            return False
        self._reasoned = self._reasoned or self.reasoning
        self._region = region
        if region.kind == "call":
            self._opening = found
            self._scanner = Scanner(region, strings=not self._naive)
        else:
            self._parts.append(Part(region.kind, "", region))
            self._thought = False
        return True

    def _opens(self, region: Region, found: Any) -> bool:
        """True if a region may begin here."""
        if region.first and self._wrote:
            return False
        if region.offered and found.groupdict().get("name", "") not in (*self._names, None, ""):
            return False
        if region.kind == "reasoning" and not region.interrupts:
            return not self._wrote or self._line or not self._reasoned
        return True

    def _write(self, end: int) -> None:
        """Pass on the text up to `end`."""
        text = self._buffer[self._position : end]
        own = text[self._unwritten :]
        self._unwritten = max(0, self._unwritten - len(text))
        self._position = end
        if not own:
            return
        if not own.isspace():
            if self.reasoning:
                self._thought = True
            else:
                self._wrote = True
            self._line = not own.rpartition("\n")[2].strip()
        elif "\n" in own:
            self._line = True
        self._parts.append(Part("reasoning" if self.reasoning else "content", own))


@dataclass(frozen=True)
class Marks:
    """Patterns of the marks that apply in a region."""

    any: Any
    """One pattern for all marks; None if there are no marks."""
    each: tuple[Any, ...]


@cache
def _marks(form: OutputFormat, *, calls: bool) -> dict[Region | None, Marks]:
    """Patterns of the marks that apply in each region; key None: outside every region."""
    usable = [
        (i, region)
        for i, region in enumerate(form.regions)
        if calls or region.kind != "call" or region.headed
    ]
    openings = {region: f"(?P<r{i}>{region.opens})" for i, region in usable}
    strays = [
        f"(?P<stray>{region.closes})"
        for _, region in usable
        if region.kind == "reasoning" and region.closes
    ]
    dropped = []
    if calls and form.dropped:
        dropped.append(f"(?P<wrap>{form.dropped})")
    for _, region in usable:
        if region.headed and region.closes:
            dropped.append(f"(?P<wrap>{region.closes})")
        elif region.kind == "call" and region.closes:
            dropped.append(f"(?P<drop>{region.closes})")
    outside = [*openings.values(), *strays, *dropped]
    patterns: dict[Region | None, Marks] = {None: _compile(outside)}
    for _, region in usable:
        close = [f"(?P<close>{region.closes})"] if region.closes else []
        if region.kind == "reasoning":
            more = [openings[other] for _, other in usable if other.interrupts]
            if not region.interrupts:
                more.append(f"(?P<again>{region.opens})")
            patterns[region] = _compile(close + more)
        elif region.kind == "content":
            patterns[region] = _compile(close + outside)
    return patterns


def _compile(patterns: list[str]) -> Marks:
    each = tuple(regex.compile(pattern, regex.DOTALL) for pattern in patterns)
    return Marks(regex.compile("|".join(patterns), regex.DOTALL) if patterns else None, each)
