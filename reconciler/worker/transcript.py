"""Tokens -> what they say: text, reasoning, tool calls.

mlx-lm knows the marks that each model sets between them; stops are looked for in the text alone.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.generate import TextStateMachine, make_text_state_machine


@dataclass
class Said:
    """What is certain after a token; a part that may yet become a mark or a stop is held back."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Tool calls, as OpenAI writes them."""
    stopped: bool = False
    """A stop was said."""

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning or self.calls or self.stopped)


class Transcript:
    """Of one completion."""

    def __init__(
        self,
        tokenizer: Any,
        prompt: Sequence[int],
        stops: Sequence[str],
        tools: list[dict[str, Any]],
        *,
        chat: bool,
    ) -> None:
        """Where `chat` is false the completion is text and nothing else."""
        self._tokenizer, self._tools = tokenizer, tools
        self._detokenizer = tokenizer.detokenizer
        marks = make_text_state_machine(tokenizer) if chat else TextStateMachine()
        self._state = marks.make_state(_beginning(tokenizer, prompt) if chat else "normal")
        edges = [(stop, None) for stop in stops]
        self._stop_state = TextStateMachine({"normal": edges} if edges else None).make_state()
        self._part = "normal"
        self._call = ""
        self._content, self._reasoning = False, False
        """Whether any was said."""
        self.called = False
        """Whether a tool was called."""

    def hear(self, token: int, end: str | None) -> Said:
        """The next token; `end` is "stop" where it is the end token, which is not text."""
        if end != "stop":
            self._detokenizer.add_token(token)
        if end is not None:
            self._detokenizer.finalize()
        self._state, segments = TextStateMachine.split(self._state, self._detokenizer.last_segment)
        if end is not None:
            self._state, rest, part = TextStateMachine.flush(self._state)
            segments.append((part, rest))
        said = Said()
        for part, text in segments:
            self._take(said, part, text)
        if end is not None and self._part == "tool":
            self._end_call(said, closed=False)
        self._look_for_stops(said, end)
        return said

    def _take(self, said: Said, part: str, text: str) -> None:
        if self._part == "tool" and part != "tool":
            self._end_call(said, closed=True)
        self._part = part
        if part == "tool":
            self._call += text
        elif part == "reasoning":
            said.reasoning += text if self._reasoning else text.lstrip()
            self._reasoning = self._reasoning or bool(said.reasoning)
        else:  # line breaks between the thoughts and the answer belong to neither
            begun = self._content or not self._reasoning
            said.content += text if begun else text.lstrip()
            self._content = self._content or bool(said.content)

    def _end_call(self, said: Said, *, closed: bool) -> None:
        """The text of a call is there; what cannot be read as one is told as text."""
        text, self._call = self._call, ""
        try:
            parsed = self._tokenizer.tool_parser(text, self._tools)
            calls = [_call(c) for c in (parsed if isinstance(parsed, list) else [parsed])]
        except Exception:  # noqa: BLE001  a parser raises what it likes
            end = self._tokenizer.tool_call_end if closed else ""
            said.content += f"{self._tokenizer.tool_call_start}{text}{end or ''}"
            return
        said.calls += calls
        self.called = True

    def _look_for_stops(self, said: Said, end: str | None) -> None:
        self._stop_state, said.content, now = TextStateMachine.step(self._stop_state, said.content)
        said.stopped = now is None
        if end is not None and not said.stopped:
            self._stop_state, rest, _ = TextStateMachine.flush(self._stop_state)
            said.content += rest


def _beginning(tokenizer: Any, prompt: Sequence[int]) -> str:
    """Whether the chat template left the model thinking."""
    if tokenizer.response_initial_state:
        return str(tokenizer.response_initial_state)
    if tokenizer.has_thinking:
        start, end = tokenizer.rfind_think_start(prompt), tokenizer.rfind_think_end(prompt)
        if start > end:
            return "reasoning"
    return "normal"


def _call(parsed: Any) -> dict[str, Any]:
    """A parsed call. Raises KeyError or TypeError where it is none."""
    arguments = json.dumps(parsed["arguments"], ensure_ascii=False)
    return {
        "id": parsed.get("id") or f"call_{uuid.uuid4().hex}",
        "type": "function",
        "function": {"name": str(parsed["name"]), "arguments": arguments},
    }
