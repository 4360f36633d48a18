"""Builds the grammar of the whole completion from a `Constraint`.

The grammar adds the output of the model's family around the text and the calls: reasoning, which is
free text up to its closing mark, the header of the answer, and the marks of a call. Marks that are
special tokens are written as token ids, others as text.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.worker.constraints.asked import CallGrammar, Constraint, quoted
from reconciler.worker.constraints.compiling import whole
from reconciler.worker.output import OutputFormat
from reconciler.worker.output.call_form import PLAIN, CallForm, Gap
from reconciler.worker.output.format import Region
from reconciler.worker.output.splitter import Splitter

_OPTIONS = '%llguidance {"no_forcing": true}\n'
"""Disables token forcing: a text with one possible continuation may be written in any tokens, as
its tokenization depends on the text before it."""

_TERMINALS = r"""
TEXT: /(.|\n)*/
PLAIN_TEXT: /[^{\[\s](.|\n)*/
CALL_ID: /[a-zA-Z0-9]{9}/
WS: /[ \n]{1,4}/
"""

Piece = str | int
"""Piece of a literal: a text, or the id of a special token."""


class Literals:
    """Splits texts as the tokenizer does: into special tokens, and the texts between them."""

    def __init__(self, special: Iterable[tuple[int, str]]) -> None:
        self._ids = {content: token for token, content in special if content}
        longest_first = sorted(self._ids, key=len, reverse=True)
        pattern = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(f"({pattern})") if pattern else None

    def pieces(self, text: str) -> list[Piece]:
        """Split a text into pieces."""
        parts = self._pattern.split(text) if self._pattern else [text]
        return [self._ids.get(part, part) for part in parts if part]

    def written(self, text: str) -> str:
        """Write a text as the symbols of a rule."""
        return " ".join(map(_symbol, self.pieces(text)))


def _symbol(piece: Piece) -> str:
    return quoted(piece) if isinstance(piece, str) else f"<[{piece}]>"


@dataclass(frozen=True)
class Enforced:
    """A grammar, and the form of the output that it allows."""

    text: str
    """The grammar; "" if nothing can be enforced."""
    plain_calls: bool = False
    """True if calls have the form `PLAIN`."""
    sealed: bool = False
    """True if the text of the answer contains no marks."""
    warning: str = ""


def build(
    constraint: Constraint, form: OutputFormat, literals: Literals, generation: str
) -> Enforced:
    """Build the grammar of a completion that follows `generation`.

    Raises ValueError if the model is inside reasoning whose closing mark is unknown.
    """
    rules = _Rules(constraint, form, literals)
    lead = _lead(form, literals, generation, rules)
    body, plain = rules.body()
    if not body:
        words = "tools: strict has no effect: this model's format of calls cannot be enforced"
        return Enforced("", warning=words)
    main = _OPTIONS + "\n".join([f"start: {lead} body", f"body: {body}", *rules.more]) + _TERMINALS
    parts = [_lark(main), *(call.part for call in constraint.calls)]
    parts += [constraint.answer] if constraint.answer else []
    return Enforced(whole(parts), plain, sealed=bool(constraint.answer) or constraint.forced)


def _lark(text: str) -> str:
    return f'{{"lark_grammar": {quoted(text)}}}'


class _Rules:
    """Builds the rules of the text and of the calls."""

    def __init__(self, constraint: Constraint, form: OutputFormat, literals: Literals) -> None:
        self._asked, self._form, self._literals = constraint, form, literals
        self.more: list[str] = []
        """Rules that other rules refer to."""

    def body(self) -> tuple[str, bool]:
        """Return the rule of all output after reasoning; True if calls have the form `PLAIN`."""
        asked = self._asked
        own = self._form.call_form
        if asked.forced:
            return self._call(own or PLAIN), own is None
        if not asked.answer:
            return (self._mixed(own) if own else ""), False
        answer = self._header() + ("WS? @answer" if asked.is_json else "@answer")
        if not asked.calls:
            return answer, False
        call = self._call(own) if own else self._free_call()
        return f"{answer} | {call}" if call else answer, False

    def until(self, text: str) -> str:
        """Return a rule for any text up to and including this one."""
        first, *rest = self._literals.pieces(text)
        if isinstance(first, int):
            head = f"TEXT {_symbol(first)}"
        else:
            head = f"until_{len(self.more)}"
            self.more.append(f"{head}[lazy]: TEXT {_symbol(first)}")
        return " ".join([head, *map(_symbol, rest)])

    def _header(self) -> str:
        """Return a rule for the mark before the text of an answer."""
        regions = [r for r in self._form.regions if r.kind == "content"]
        known = [self._literals.written(header) for r in regions for header in _openings(r)]
        if not known:
            return ""
        required = any(region.literal for region in regions)
        return f"({' | '.join(known)}){'' if required else '?'} "

    def _call(self, form: CallForm) -> str:
        """Return a rule for a call of one of the tools."""
        calls = enumerate(self._asked.calls)
        choice = " | ".join(self._one(form.parts, number, call) for number, call in calls)
        first = form.parts[0]  # a name continues a mark of the generation prompt
        free = isinstance(first, str) and not first[0].isspace()
        return f"{'WS? ' if free else ''}({choice})"

    def _one(self, parts: Sequence[str | Gap], number: int, call: CallGrammar) -> str:
        name = quoted(call.name)[1:-1]
        symbols, text = [], ""
        for part in parts:
            if part is Gap.NAME or isinstance(part, str):
                text += name if part is Gap.NAME else str(part)
                continue
            symbols += [self._literals.written(text)] if text else []
            symbols.append(f"@tool_{number}" if part is Gap.ARGUMENTS else "CALL_ID")
            text = ""
        symbols += [self._literals.written(text)] if text else []
        return " ".join(symbols)

    def _mixed(self, form: CallForm) -> str:
        """Return a rule for free text with calls in it."""
        header = self._header()
        if header and any(r.literal for r in self._form.regions):
            return f"{header}TEXT | {self._call(form)}"
        begins = form.begins
        if not begins:
            return f"{self._call(form)} | WS? PLAIN_TEXT?"
        first = str(form.parts[0]).removeprefix(begins)
        rest = CallForm((first, *form.parts[1:]) if first else form.parts[1:])
        return f"({self.until(begins)} {self._call(rest)})* TEXT"

    def _free_call(self) -> str:
        """Return a rule for a call whose form is not enforced."""
        regions = [r for r in self._form.regions if r.kind == "call"]
        opens = dict.fromkeys(mark for region in regions for mark in _openings(region))
        return " | ".join(f"WS? {self._literals.written(mark)} TEXT" for mark in opens)


def _lead(form: OutputFormat, literals: Literals, generation: str, rules: _Rules) -> str:
    """Return a rule for the reasoning before an answer."""
    regions = [region for region in form.regions if region.kind == "reasoning"]
    before = Splitter(form, calls=False, generation=generation)
    if before.reasoning:
        closes = dict.fromkeys(mark for region in regions for mark in _closings(region))
        if not closes:
            raise ValueError("the closing mark of this model's reasoning is unknown")
        return f"({' | '.join(rules.until(mark) for mark in closes)}) WS?"
    if before.reasoned:
        return ""
    known = [
        f"WS? {literals.written(opens)} {rules.until(closes)} WS?"
        for region in regions
        for opens in _openings(region)
        for closes in _closings(region)
    ]
    return f"({' | '.join(known)})?" if known else ""


_CHOICE = re.compile(r"\(\?:([^()]*)\)")
_ESCAPED = re.compile(r"\\(.)")
_SYNTAX = re.compile(r"[\\.^$*+?{}\[\]()|]")


def _openings(region: Region) -> list[str]:
    """Return the texts of a region's opening mark; empty if its pattern is not simple."""
    return [region.literal[0]] if region.literal else _texts(region.opens)


def _closings(region: Region) -> list[str]:
    """Return the texts of a region's closing mark; empty if its pattern is not simple."""
    return [region.literal[1]] if region.literal else _texts(region.closes)


def _texts(pattern: str) -> list[str]:
    """Return the texts that a simple regular expression matches; empty if it is not simple."""
    found = _CHOICE.search(pattern)
    if found is not None:
        before, after = pattern[: found.start()], pattern[found.end() :]
        choices = found[1].split("|")
        return [text for choice in choices for text in _texts(before + choice + after)]
    if _SYNTAX.search(_ESCAPED.sub("", pattern)) or re.search(r"\\[A-Za-z0-9]", pattern):
        return []
    text = _ESCAPED.sub(r"\1", pattern)
    return [text] if text else []


def special_tokens(tokenizer: Any) -> list[tuple[int, str]]:
    """Return ids and contents of the special tokens of mlx_lm's or transformers' tokenizer."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [(int(token), entry.content) for token, entry in added.items() if entry.special]
