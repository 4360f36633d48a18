"""Output items of an answer, and the events for each addition to them.

An item is reasoning, a message or a call. Output of another kind ends the previous item. An event
is a dictionary without its sequence number.
"""

import json
import uuid
from collections.abc import Iterable
from typing import Any

from reconciler.worker.dialects.responses.tools import INPUT
from reconciler.worker.output import Delta

Event = dict[str, Any]
Tokens = list[dict[str, Any]]
"""Tokens with their log-probabilities."""


class _Growing:
    """Common base of the items."""

    def __init__(self, prefix: str, index: int) -> None:
        self.id = f"{prefix}_{uuid.uuid4().hex}"
        self._index = index
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def _event(self, kind: str, **more: Any) -> Event:
        return {
            "type": f"response.{kind}",
            "item_id": self.id,
            "output_index": self._index,
            **more,
        }

    def _added(self, item: dict[str, Any]) -> Event:
        return {
            "type": "response.output_item.added",
            "output_index": self._index,
            "item": item,
        }

    def _done(self, item: dict[str, Any]) -> Event:
        return {
            "type": "response.output_item.done",
            "output_index": self._index,
            "item": item,
        }


class Message(_Growing):
    """A message item, with text."""

    def __init__(self, index: int) -> None:
        super().__init__("msg", index)
        self._tokens: Tokens = []

    def begin(self) -> list[Event]:
        part = self._part("", [])
        return [
            self._added(self._item("in_progress", [])),
            self._event("content_part.added", content_index=0, part=part),
        ]

    def add(self, text: str, tokens: Tokens) -> list[Event]:
        self._texts.append(text)
        self._tokens += tokens
        return [
            self._event(
                "output_text.delta",
                content_index=0,
                delta=text,
                logprobs=[_brief(token) for token in tokens],
            )
        ]

    def end(self, status: str) -> tuple[list[Event], dict[str, Any]]:
        text, part = self.text, self._part(self.text, self._tokens)
        item = self._item(status, [part])
        tokens = [_brief(token) for token in self._tokens]
        events = [
            self._event("output_text.done", content_index=0, text=text, logprobs=tokens),
            self._event("content_part.done", content_index=0, part=part),
            self._done(item),
        ]
        return events, item

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        keys = {"type": "message", "role": "assistant", "status": status, "content": content}
        return {"id": self.id, **keys}

    def _part(self, text: str, tokens: Tokens) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": tokens}


def _brief(token: dict[str, Any]) -> dict[str, Any]:
    """A token in the form of events, without bytes."""
    alternatives = [{k: one[k] for k in ("token", "logprob")} for one in token["top_logprobs"]]
    return {"token": token["token"], "logprob": token["logprob"], "top_logprobs": alternatives}


class Reasoning(_Growing):
    """A reasoning item; its text doubles as the summary if one is requested."""

    def __init__(self, index: int, *, summarized: bool) -> None:
        super().__init__("rs", index)
        self._summarized = summarized

    def begin(self) -> list[Event]:
        events = [
            self._added(self._item("in_progress", None)),
            self._event("content_part.added", content_index=0, part=_reasoning_text("")),
        ]
        if self._summarized:
            part = _summary_text("")
            events.append(self._event("reasoning_summary_part.added", summary_index=0, part=part))
        return events

    def add(self, text: str) -> list[Event]:
        self._texts.append(text)
        events = [self._event("reasoning_text.delta", content_index=0, delta=text)]
        if self._summarized:
            events.append(self._event("reasoning_summary_text.delta", summary_index=0, delta=text))
        return events

    def end(self, status: str) -> tuple[list[Event], dict[str, Any]]:
        text = self.text
        item = self._item(status, text)
        events = [
            self._event("reasoning_text.done", content_index=0, text=text),
            self._event("content_part.done", content_index=0, part=_reasoning_text(text)),
        ]
        if self._summarized:
            part = _summary_text(text)
            events += [
                self._event("reasoning_summary_text.done", summary_index=0, text=text),
                self._event("reasoning_summary_part.done", summary_index=0, part=part),
            ]
        return [*events, self._done(item)], item

    def _item(self, status: str, text: str | None) -> dict[str, Any]:
        summarized = text is not None and self._summarized
        return {
            "id": self.id,
            "type": "reasoning",
            "status": status,
            "summary": [_summary_text(text or "")] if summarized else [],
            "content": [] if text is None else [_reasoning_text(text)],
            "encrypted_content": None,
        }


def _reasoning_text(text: str) -> dict[str, str]:
    return {"type": "reasoning_text", "text": text}


def _summary_text(text: str) -> dict[str, str]:
    return {"type": "summary_text", "text": text}


class Call(_Growing):
    """A call of a function or custom tool, written at once."""

    def __init__(self, index: int, call: dict[str, Any], *, custom: bool) -> None:
        super().__init__("ctc" if custom else "fc", index)
        self._call, self._custom = call, custom

    def events(self) -> tuple[list[Event], dict[str, Any]]:
        """Return all events of the item, and the item."""
        key, kind = "arguments", "function_call_arguments"
        sent = self._call["function"]["arguments"]
        if self._custom:
            key, kind, sent = INPUT, "custom_tool_call_input", _input(sent)
        item = self._item(key, sent, "completed")
        events = [
            self._added(self._item(key, "", "in_progress")),
            self._event(f"{kind}.delta", delta=sent),
            self._event(f"{kind}.done", **{key: sent}),
            self._done(item),
        ]
        return events, item

    def _item(self, key: str, value: str, status: str) -> dict[str, Any]:
        kind = "custom_tool_call" if self._custom else "function_call"
        own = {"id": self.id, "type": kind, "call_id": self._call["id"]}
        item = {**own, "name": self._call["function"]["name"], key: value}
        return item if self._custom else item | {"status": status}


def _input(arguments: str) -> str:
    """Extract the text from the arguments of a custom tool."""
    try:
        found = json.loads(arguments)[INPUT]
    except (ValueError, TypeError, KeyError, RecursionError):
        return arguments
    return found if isinstance(found, str) else arguments


class Output:
    """Builds the items of an answer in order."""

    def __init__(self, *, summarized: bool, custom: Iterable[str]) -> None:
        """`custom`: names of the custom tools, whose input is text."""
        self.items: list[dict[str, Any]] = []
        """Completed items."""
        self._summarized, self._custom = summarized, frozenset(custom)
        self._open: Message | Reasoning | None = None
        self._answered = False

    def feed(self, delta: Delta, tokens: Tokens) -> list[Event]:
        """Add output; return the events. `tokens` are the text's log-probabilities."""
        events: list[Event] = []
        if delta.reasoning:
            text = delta.reasoning
            if not isinstance(self._open, Reasoning):
                events += self._close()
                self._open = Reasoning(len(self.items), summarized=self._summarized)
                events += self._open.begin()
                text = text.removeprefix("\n") if self._answered else text
            events += self._open.add(text)
        if delta.content:
            events += self._write(delta.content, tokens)
        for call in delta.calls:
            events += self._close()
            custom = call["function"]["name"] in self._custom
            more, item = Call(len(self.items), call, custom=custom).events()
            events += more
            self.items.append(item)
            self._answered = True
        return events

    def end(self, *, incomplete: bool) -> list[Event]:
        """End the answer; return the events. An empty answer becomes an empty message."""
        if not (self._answered or incomplete):
            return self._write("", []) + self._close()
        return self._close("incomplete" if incomplete else "completed")

    def _write(self, text: str, tokens: Tokens) -> list[Event]:
        events: list[Event] = []
        if not isinstance(self._open, Message):
            events += self._close()
            self._open = Message(len(self.items))
            events += self._open.begin()
            # Strips the separator from the previous part.
            text = text.removeprefix("\n\n") if self._answered else text
            self._answered = True
        return events + self._open.add(text, tokens) if text else events

    def _close(self, status: str = "completed") -> list[Event]:
        if self._open is None:
            return []
        events, item = self._open.end(status)
        self.items.append(item)
        self._open = None
        return events
