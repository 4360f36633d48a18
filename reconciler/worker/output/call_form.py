"""How a family writes one tool call with JSON arguments, as a text with gaps.

It is found by rendering a turn with a call through the checkpoint's chat template: the arguments
stand there as JSON, the name before them. A model can be made to write such a call by a grammar.
Families that write arguments in another way (tags, Python) have no such form; they are made to
write `PLAIN`, which every description of calls in `<tool_call>` reads.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import regex

from reconciler.worker.output.format import OutputFormat, Region


class Gap(Enum):
    """What is filled in."""

    NAME = auto()
    ARGUMENTS = auto()
    ID = auto()
    """Nine letters or digits, as Mistral's templates want them."""


@dataclass(frozen=True)
class CallForm:
    """A tool call as it is written."""

    parts: tuple[str | Gap, ...]

    @property
    def begins(self) -> str:
        """The text by which a call is recognized; "" if there is none before its JSON."""
        first = self.parts[0]
        if not isinstance(first, str):
            return ""
        mark = _MARK.match(first)
        return mark.group() if mark else ""

    def filled(self, name: str, arguments: str, given: str = "123456789") -> str:
        """A whole call."""
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
"""For models without a form of their own that can be written by a grammar."""


def from_rendering(
    generation: str,
    text: str,
    form: OutputFormat,
    *,
    name: str,
    arguments: dict[str, str],
    given: str,
) -> CallForm | None:
    """The form of a rendered turn with one call, which `form` reads; None: it has none.

    The turn's `text` follows `generation`. `given`: the call's id, which may be in the text.
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
    """The ways in which templates write JSON."""
    yield json.dumps(arguments)
    yield json.dumps(arguments, separators=(",", ":"))
    for indent in (2, 4):
        yield json.dumps(arguments, indent=indent)


def _begin(text: str, form: OutputFormat) -> int | None:
    """Where the marks of the call begin; None: nowhere."""
    marks = [region.opens for region in form.regions if region.kind == "call"]
    marks += [form.dropped] if form.dropped else []
    found = [match.start() for mark in marks if (match := regex.search(mark, text, regex.DOTALL))]
    return min(found, default=None)


def _closing(after: str, form: OutputFormat, given: str) -> str:
    """What stands behind the arguments and is part of the call."""
    end = re.match(rf"(?:\s|[}}\]]|,|\"id\": ?\"{given}\"|```)*", after)
    at = end.end() if end else 0
    closes = [_closed(region) for region in form.regions if region.kind == "call"]
    for mark in (*closes, form.dropped):
        more = regex.compile(rf"\s{{0,4}}(?:{mark})").match(after, at) if mark else None
        if more is not None:
            at = more.end()
    return after[:at].rstrip()


def _closed(region: Region) -> str:
    """A region's closing mark; harmony's are tokens that end the answer by themselves."""
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
