"""The declarative form in which the output of a family of models is described."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from reconciler.worker.output.call_form import CallForm

LONGEST_MARK = 512
"""Characters that are held back as the possible beginning of a mark; longer ones are text."""

Kind = Literal["content", "reasoning", "call"]


@dataclass(frozen=True)
class Quotes:
    """Strings inside a call's body, in which no mark counts. Regular expressions."""

    opens: str
    closes: str
    escape: str = ""
    """Skipped inside the string, such as a backslash and the character after it."""


JSON_STRINGS = (Quotes('"', '"', r"\\."),)
PYTHON_STRINGS = (Quotes('"', '"', r"\\."), Quotes("'", "'", r"\\."))


@dataclass(frozen=True)
class Region:
    """A part of an answer, from one mark to another. Marks are regular expressions.

    A mark ends with a character that is certain, so that it is recognized as soon as it is whole.
    Its quantifiers are bounded and none is lazy: `regex` takes too much for the beginning of a
    match with a lazy one, and an answer is searched once for each token.
    """

    kind: Kind
    opens: str
    closes: str = ""
    reader: str = ""
    """For calls: a key of `readers.READERS`."""
    read: Callable[[str, Mapping[str, str]], Any] | None = None
    """For calls, in place of a reader: body and groups of the opening mark -> calls as values."""
    pattern: str = ""
    """For the reader "named": the body, with the groups name, arguments and perhaps id."""
    strings: tuple[Quotes, ...] = ()
    balanced: bool = False
    """True if the body ends where its first bracket is closed; `closes` ends it before."""
    keeps_open: bool = False
    """True if the opening mark is part of the body."""
    first: bool = False
    """True if it opens only where no text was written before it."""
    interrupts: bool = False
    """True if it opens inside reasoning too: the mark is a token that no text contains."""
    offered: bool = False
    """True if only calls of tools that were offered count: the marks could be ordinary text."""
    headed: bool = False
    """True if the opening mark is the header of a message: it is never text."""
    literal: tuple[str, str] | None = None
    """The marks as the model is to write them, where the patterns allow several and every answer
    has one."""


@dataclass(frozen=True)
class Description:
    """One way to write reasoning or tool calls, and the chat templates that have it."""

    name: str
    models: str
    """Families that write so, for the documentation."""
    signs: tuple[tuple[str, ...], ...]
    """It is a template's if the template contains every string of one of these groups."""
    regions: tuple[Region, ...]
    dropped: str = ""
    """Marks around several calls, which are no text. A regular expression."""
    tokens: tuple[str, ...] = ()
    """It is a tokenizer's, whatever the template, if these are all in the vocabulary."""
    example: str = ""
    """As it is written, for the documentation; empty if the marks say it."""


@dataclass(frozen=True)
class OutputFormat:
    """How one checkpoint writes reasoning and tool calls."""

    reasoning: str = ""
    """Names of the descriptions in use, for logs and tests."""
    calls: str = ""
    regions: tuple[Region, ...] = ()
    dropped: str = ""
    seconds: float | None = None
    """Most that one search for marks may take, if the marks are not our own."""
    call_form: "CallForm | None" = None
    """How it writes a call with JSON arguments; None if it cannot be made to by a grammar."""
    sealed: bool = False
    """True if a grammar says what is written: reasoning ends with its mark alone, and a text that
    has begun has no marks."""
    problem: str = ""
    """Why reasoning or tool calls stay text, in words; empty if nothing is unknown."""
