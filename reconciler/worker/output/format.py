"""Declarative description of the output of a model family.

A mark is the text or special token that opens or closes a region.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from reconciler.worker.output.call_form import CallForm

LONGEST_MARK = 512
"""Maximum characters held back as a possible beginning of a mark; longer candidates are text."""

Kind = Literal["content", "reasoning", "call"]


@dataclass(frozen=True)
class Quotes:
    """Quotes of strings in a call's body, inside which marks are ignored. Regular expressions."""

    opens: str
    closes: str
    escape: str = ""
    """Skipped inside the string, such as a backslash and the next character."""


JSON_STRINGS = (Quotes('"', '"', r"\\."),)
PYTHON_STRINGS = (Quotes('"', '"', r"\\."), Quotes("'", "'", r"\\."))


@dataclass(frozen=True)
class Region:
    """Part of a completion, from one mark to another. Marks are regular expressions.

    A mark ends with a definite character, so that it is recognized as soon as it is complete. Its
    quantifiers are bounded and not lazy: with a lazy one, `regex` reports too much text as a
    partial match, and a completion is searched once per token.
    """

    kind: Kind
    opens: str
    closes: str = ""
    reader: str = ""
    """Key of `readers.READERS`; for calls only."""
    read: Callable[[str, Mapping[str, str]], Any] | None = None
    """Replaces `reader`: body and groups of the opening mark -> calls as values; for calls only."""
    pattern: str = ""
    """Pattern of the body for `read_named`, with groups name, arguments and optionally id."""
    strings: tuple[Quotes, ...] = ()
    balanced: bool = False
    """True if the body ends when its first bracket is closed, or earlier at `closes`."""
    keeps_open: bool = False
    """True if the opening mark is part of the body."""
    first: bool = False
    """True if it opens only before any other text."""
    interrupts: bool = False
    """True if it also opens inside reasoning: the mark is a token that never occurs in text."""
    offered: bool = False
    """True if only calls of offered tools count: the marks could be ordinary text."""
    headed: bool = False
    """True if the opening mark is the header of a message: it is never text."""
    literal: tuple[str, str] | None = None
    """Opening and closing mark that a grammar writes, if the patterns match several texts and every
    completion has such a mark."""


@dataclass(frozen=True)
class Description:
    """A format of reasoning or tool calls, and the signs of chat templates that use it."""

    name: str
    models: str
    """Families that use it, for the documentation."""
    signs: tuple[tuple[str, ...], ...]
    """Groups of strings; a template uses the format if it contains every string of one group."""
    regions: tuple[Region, ...]
    dropped: str = ""
    """Marks around several calls, which are not text. A regular expression."""
    tokens: tuple[str, ...] = ()
    """Tokens that select the format if a template has no signs and all are in the vocabulary."""
    example: str = ""
    """Example for the documentation; empty if the marks suffice."""


@dataclass(frozen=True)
class OutputFormat:
    """Format of the reasoning and the tool calls of one checkpoint."""

    reasoning: str = ""
    """Names of the descriptions in use, for logs and tests."""
    calls: str = ""
    regions: tuple[Region, ...] = ()
    dropped: str = ""
    seconds: float | None = None
    """Time limit of one search for marks [s], if they are the checkpoint's own."""
    call_form: "CallForm | None" = None
    """Form of a call with JSON arguments; None if a grammar cannot enforce one."""
    sealed: bool = False
    """True if a grammar constrains the completion: reasoning ends only at its closing mark, and
    there are no marks in text that has begun."""
    problem: str = ""
    """Reason why reasoning or tool calls stay in the text; empty if their formats are known."""
