"""Parses tokens into content, reasoning and tool calls, in OpenAI's form.

`Splitter` finds the parts, `readers` parse the calls. A call that cannot be parsed becomes text,
with its marks, so that nothing is lost. Whitespace between parts belongs to none of them: it is
held back until it is known whether text follows. Only content is searched for stop sequences.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.worker.output import readers, values
from reconciler.worker.output.calls import FIT, Call, Tools
from reconciler.worker.output.format import OutputFormat
from reconciler.worker.output.splitter import Part, Splitter
from reconciler.worker.output.stops import Stops


@dataclass
class Delta:
    """Output that a token adds; a possible beginning of a mark or stop sequence is held back."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Tool calls in OpenAI's form."""
    stopped: bool = False
    """True if the content reached a stop sequence."""
    stop: str = ""
    """The stop sequence."""

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls or self.stopped)


class _Text:
    """Content or reasoning, without the whitespace between the text and its marks."""

    def __init__(self) -> None:
        self.written = False
        self._held = ""
        self._separator = ""
        """Inserted before the next word if any text was written before."""

    def add(self, text: str, *, strip: bool) -> str:
        """Add text and return what is final. `strip`: drop whitespace before the first word."""
        body = text.rstrip()
        if not body:
            self._held += text
            return ""
        whole = self._held + body
        self._held = text[len(body) :]
        if self._separator and self.written:
            whole = self._separator + whole.lstrip()
        elif strip and not self.written:
            whole = whole.lstrip()
        self._separator = ""
        self.written = True
        return whole

    def drops_space(self, *, strip: bool) -> bool:
        """True if whitespace that arrives now precedes a word and is dropped."""
        return bool(self._separator) if self.written else strip

    def part(self, separator: str) -> None:
        """Begin a new part: the separator replaces the whitespace around it."""
        self._held, self._separator = "", separator

    def drop(self) -> None:
        """Discard the whitespace that was held back."""
        self._held = ""

    def rest(self) -> str:
        """Return the whitespace that was held back, and clear it."""
        rest, self._held = "" if self._separator else self._held, ""
        return rest


_BEFORE = "."
"""Placeholder for the text that a completion continues."""


class OutputParser:
    """Parses one completion."""

    def __init__(
        self,
        tokenizer: Any,
        output_format: OutputFormat,
        *,
        generation: str = "",
        stops: Sequence[str] = (),
        tools: Iterable[Mapping[str, Any]] = (),
        chat: bool = True,
        continues: bool = False,
    ) -> None:
        """Without `chat` the completion is plain text, with no reasoning and no calls.

        `generation`: the chat template's generation prompt. `tools`: those that the model may call,
        in OpenAI's form; without any there are no calls. `continues`: True if the completion
        continues a message, so that a leading space is part of it.
        """
        self._token_of = tokenizer.convert_ids_to_tokens  # the wrapper's lookup of it is slow
        self._detokenizer = tokenizer.detokenizer
        if continues and "text" in vars(self._detokenizer):
            # mlx-lm's detokenizers with a `text` drop a leading space.
            self._detokenizer.text, self._detokenizer.offset = _BEFORE, len(_BEFORE)
        self._parser = TextParser(
            output_format if chat else OutputFormat(),
            generation=generation if chat else "",
            stops=stops,
            tools=tools,
        )

    def feed(self, token: int, end: str | None) -> Delta:
        """Add a token; `end` is "stop" if it is the end token, which is not text."""
        if end != "stop" and self._has_text(token):
            self._detokenizer.add_token(token)
        if end is not None:
            self._detokenizer.finalize()
        return self._parser.feed(self._detokenizer.last_segment, end)

    def _has_text(self, token: int) -> bool:
        """True if the id has a token: the tokenizer can have gaps, or fewer ids than the model.

        mlx-lm's detokenizers raise on most of the missing ids, which would fail the completion.
        """
        try:
            return self._token_of(token) is not None
        except (IndexError, KeyError):
            return False

    @property
    def called(self) -> bool:
        """True if a tool was called."""
        return self._parser.called

    @property
    def reasoning_tokens(self) -> int:
        """Number of reasoning tokens, including those of the closing mark."""
        return self._parser.reasoning_pieces


class TextParser:
    """Parses one completion that arrives as pieces of text."""

    def __init__(
        self,
        output_format: OutputFormat,
        *,
        generation: str = "",
        stops: Sequence[str] = (),
        tools: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._tools = Tools(tools)
        names = self._tools.names
        self._splitter = Splitter(
            output_format, calls=bool(names), names=names, generation=generation
        )
        self._structured = bool(output_format.regions)
        self._content, self._reasoning = _Text(), _Text()
        self._reasoned = self._splitter.reasoned
        self._ids: set[str] = set()
        self._stops = Stops(stops)
        self.called = False
        self.reasoning_pieces = 0
        """Pieces that arrived inside reasoning."""

    def feed(self, text: str, end: str | None) -> Delta:
        """Add a piece of text; `end` is "stop" or "length" for the last one."""
        # The text lags some tokens behind, so empty pieces count too.
        self.reasoning_pieces += self._splitter.reasoning and end != "stop"
        parts = self._split(text, final=end is not None)
        delta = Delta()
        for index, part in enumerate(parts):
            self._add(delta, part, end if index == len(parts) - 1 else None)
        if end is not None:
            self._release(delta)
        delta.stopped, delta.stop = self._stops.stopped, self._stops.found
        over = end is not None or delta.stopped
        if over and not (self.called or (self._reasoned and not self._content.written)):
            delta.content += self._content.rest()
        return delta

    def _split(self, text: str, *, final: bool) -> list[Part]:
        try:
            parts = self._splitter.feed(text)
            return parts + self._splitter.finish() if final else parts
        except TimeoutError:  # the checkpoint's own marks are too slow: the rest is text
            held = self._splitter.held
            self._splitter = Splitter(OutputFormat(), calls=False)
            return self._split(held, final=final)

    def _add(self, delta: Delta, part: Part, end: str | None) -> None:
        """Add a part, unless a stop sequence precedes it. `end` is set for the last part only."""
        if part.kind != "content" or part.region is not None:
            self._release(delta)
        if self._stops.stopped:
            return
        if part.kind == "call":
            self._add_call(delta, part, end)
        elif part.kind == "reasoning":
            self._reasoned = True
            if not self._content.written:
                self._content.drop()
            if part.region is not None:
                self._reasoning.part("\n")
                return
            delta.reasoning += self._reasoning.add(part.text, strip=True)
        elif part.region is not None:
            self._content.part("\n\n")
        else:
            self._write(delta, part.text)

    def _write(self, delta: Delta, text: str) -> None:
        """Write content up to the first stop sequence in it."""
        if not self._structured:
            delta.content += self._stops.feed(text)
            return
        strip = self._reasoned or self.called
        if not self._stops.held and self._content.drops_space(strip=strip):
            text = text.lstrip()
        delta.content += self._content.add(self._stops.feed(text), strip=strip)

    def _release(self, delta: Delta) -> None:
        """Write the content held back for a stop sequence, which the next part rules out."""
        text = self._stops.release()
        if not self._structured:
            delta.content += text
        else:
            delta.content += self._content.add(text, strip=self._reasoned or self.called)

    def _add_call(self, delta: Delta, part: Part, end: str | None) -> None:
        try:
            calls = readers.read(part, self._tools, end=end)
            serialized = [self._serialize(call) for call in calls]
        except Exception:  # noqa: BLE001  on any error the call becomes text
            region = part.region
            keeps = region is not None and region.keeps_open
            whole = f"{'' if keeps else part.opened}{part.text}{part.closed}"
            text = part.text if region is not None and region.headed else whole
            self._write(delta, text)
            return
        delta.calls += serialized
        self.called = True
        self._content.part("\n\n")

    def _serialize(self, call: Call) -> dict[str, Any]:
        own = call.id if call.id and FIT.fullmatch(call.id) else None
        given = own if own and own not in self._ids else f"call_{uuid.uuid4().hex}"
        self._ids.add(given)
        function = {"name": call.name, "arguments": values.serialize(call.arguments)}
        return {"id": given, "type": "function", "function": function}
