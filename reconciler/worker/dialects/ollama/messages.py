"""Translate Ollama's messages into OpenAI's, which pair calls and results by identifier.

Ollama's clients send tool results in the order of the calls, or with the tool's name; few send the
identifiers of calls.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any

import msgspec

from reconciler.worker.dialects.checking import unknown
from reconciler.worker.errors import unsupported


class Called(msgspec.Struct):
    """The function of a call; `arguments` is an object."""

    name: str
    arguments: Any = None
    index: int | None = None


class ToolCall(msgspec.Struct):
    """A call in an earlier answer."""

    function: Called
    id: str | None = None
    type: str | None = None


class Message(msgspec.Struct):
    """A message of a chat."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    name: str | None = None


def turns(messages: Sequence[Message], sent: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Translate messages; return them and warnings about unknown keys in `sent`, the raw messages.

    Raises `RequestError`.
    """
    made, pending = [], _Pending()
    for index, message in enumerate(messages):
        if message.images:
            words = f"messages[{index}].images is not supported; only text is"
            raise unsupported("messages", words)
        made.append(_turn(message, pending))
    raw: Iterable[Any] = sent if isinstance(sent, list) else ()
    known = frozenset(Message.__struct_fields__)
    warnings = chain.from_iterable(
        unknown(one, known, f"messages[{index}].")
        for index, one in enumerate(raw)
        if isinstance(one, dict)
    )
    return made, list(islice(warnings, 16))


def _turn(message: Message, pending: "_Pending") -> dict[str, Any]:
    role = message.role.lower()
    made: dict[str, Any] = {"role": role, "content": message.content or ""}
    if message.thinking:
        made["reasoning_content"] = message.thinking
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": pending.add(call),
                "type": "function",
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
            for call in message.tool_calls
        ]
    if role == "tool":
        name = message.tool_name or message.name
        made["tool_call_id"] = pending.answered(message.tool_call_id, name)
        if name:
            made["name"] = name
    return made


class _Pending:
    """Calls without a result, in order; there may be a hundred thousand."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()
        """Names by identifier."""
        self._ids: defaultdict[str, deque[str]] = defaultdict(deque)
        """Identifiers by name, including calls that already got a result by identifier."""
        self._count = 0

    def add(self, call: ToolCall) -> str:
        """Add a call; return its identifier, generated if none was sent."""
        self._count += 1
        id_ = call.id or f"call_{self._count}"
        self._names[id_] = call.function.name
        self._ids[call.function.name].append(id_)
        return id_

    def answered(self, sent: str | None, name: str | None) -> str:
        """Remove the call that a result belongs to; return its identifier."""
        id_ = sent or self._next(name) or next(iter(self._names), "call_0")
        self._names.pop(id_, None)
        return id_

    def _next(self, name: str | None) -> str | None:
        """The first call of a tool that has no result; None if there is none."""
        ids = self._ids.get(name or "")
        while ids:
            id_ = ids.popleft()
            if id_ in self._names:
                return id_
        return None
