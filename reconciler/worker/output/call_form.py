"""Call forms: a family's tool call with JSON arguments, as text with gaps.

The form is derived from a turn with a call, rendered through the checkpoint's chat template: the
turn contains the tool's name, followed by the arguments as JSON. A grammar can force the model to
write calls in this form. Families that write arguments differently (tags, Python) have no such
form; they are forced to write `PLAIN`, which every description of calls in `<tool_call>` can parse.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import regex

from reconciler.worker.output.format import OutputFormat, Region


class Gap(Enum):
    """A gap in a call form."""

    NAME = auto()
    ARGUMENTS = auto()
    ID = auto()
    """Nine letters or digits, as Mistral's templates require."""


@dataclass(frozen=True)
class CallForm:
    """A tool call as text with gaps."""

    parts: tuple[str | Gap, ...]

    @property
    def begins(self) -> str:
        """Mark that identifies a call; "" if there is none before its JSON."""
        first = self.parts[0]
        if not isinstance(first, str):
            return ""
        mark = _MARK.match(first)
        return mark.group() if mark else ""

    def filled(self, name: str, arguments: str, given: str = "123456789") -> str:
        """Return the text of a call; `given` is its id."""
        values = {Gap.NAME: name, Gap.ARGUMENTS: arguments, Gap.ID: given}
        return "".join(part if isinstance(part, str) else values[part] for part in self.parts)


_MARK = re.compile(r"(?:<[^<>\s]{2,80}>)+|\[[A-Z_]{3,20}\]")

PLAIN = CallForm(
    (
        '<tool_call>\n{"name": "',
        Gap.NAME,
        '", "arguments": ',
        Gap.ARGUMENTS,
        "}\n</tool_call>",
    )
)
"""Form for models without one of their own that a grammar can enforce."""


def from_rendering(
    generation: str,
    text: str,
    form: OutputFormat,
    *,
    name: str,
    arguments: dict[str, str],
    given: str,
) -> CallForm | None:
    """Derive the call form from a rendered turn with one call; None if that is impossible.

    `text`: the turn, which follows `generation`. `form`: the output format of the call. `given`:
    the call's id, which may occur in the turn.
    """
    at = _begin(generation + text, form)
    if at is None:
        return None
    text = text[max(0, at - len(generation)) :]
    for written in _serialized(arguments):
        before, found, after = text.partition(written)
        if not found or before.count(name) != 1:
            continue
        closing = _closing(after, form, given)
        named, _, between = before.partition(name)
        pieces = (named, Gap.NAME, between, Gap.ARGUMENTS, closing)
        return CallForm(tuple(_with_ids(pieces, given)))
    return None


def _serialized(arguments: dict[str, str]) -> Iterator[str]:
    """Yield the arguments in each JSON layout that templates use."""
    yield json.dumps(arguments)
    yield json.dumps(arguments, separators=(",", ":"))
    for indent in (2, 4):
        yield json.dumps(arguments, indent=indent)


def _begin(text: str, form: OutputFormat) -> int | None:
    """Return the position of the call's first mark; None if there is no mark."""
    marks = [region.opens for region in form.regions if region.kind == "call"]
    marks += [form.dropped] if form.dropped else []
    found = [match.start() for mark in marks if (match := regex.search(mark, text, regex.DOTALL))]
    return min(found, default=None)


def _closing(after: str, form: OutputFormat, given: str) -> str:
    """Return the part of the call that follows its arguments."""
    end = re.match(rf"(?:\s|[}}\]]|,|\"id\": ?\"{given}\"|```)*", after)
    at = end.end() if end else 0
    closes = [_closed(region) for region in form.regions if region.kind == "call"]
    for mark in (*closes, form.dropped):
        more = regex.compile(rf"\s{{0,4}}(?:{mark})").match(after, at) if mark else None
        if more is not None:
            at = more.end()
    return after[:at].rstrip()


def _closed(region: Region) -> str:
    """Return a region's closing mark; "" for harmony's, which are stop tokens."""
    return "" if region.headed else region.closes


def _with_ids(pieces: tuple[str | Gap, ...], given: str) -> Iterator[str | Gap]:
    for piece in pieces:
        if isinstance(piece, Gap):
            yield piece
            continue
        texts = piece.split(given)
        for number, text in enumerate(texts):
            if number:
                yield Gap.ID
            if text:
                yield text
