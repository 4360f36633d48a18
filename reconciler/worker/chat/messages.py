"""Converts the messages of a request to turns, the input of chat templates."""

import json
from typing import Any, Literal

import msgspec

from reconciler.worker.chat.turns import Turn
from reconciler.worker.errors import unsupported

HARMLESS_KEYS = frozenset(("annotations", "audio", "cache_control", "id", "weight"))
"""Keys of a message that do not affect the prompt."""


class Part(msgspec.Struct):
    """A part of a message's content."""

    type: str
    text: str | None = None
    refusal: str | None = None


class Called(msgspec.Struct):
    """Function of a tool call; `arguments` should be JSON text or an object."""

    name: str
    arguments: Any = None


class ToolCall(msgspec.Struct):
    """Tool call in an earlier completion."""

    function: Called
    id: str | None = None
    type: Literal["function"] | None = "function"


class Message(msgspec.Struct):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[str | Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Called | None = None
    tool_call_id: str | None = None
    name: str | None = None
    prefix: bool | None = None
    partial: bool | None = None
    """Like `prefix`: true if this message, the last one and an assistant's, is to be continued."""

    @property
    def continued(self) -> bool:
        """True if the completion continues this message."""
        return bool(self.prefix or self.partial)


KNOWN_KEYS = frozenset(Message.__struct_fields__) | HARMLESS_KEYS


def turn(message: Message) -> Turn:
    """Convert a message to a turn: text, and tool calls with parsed arguments."""
    role = "tool" if message.role == "function" else message.role
    made: Turn = {"role": role, "content": _text(message)}
    reasoning = message.reasoning_content or message.reasoning or message.thinking
    if reasoning:
        made["reasoning_content"] = reasoning
    for key in ("tool_call_id", "name"):
        if getattr(message, key) is not None:
            made[key] = getattr(message, key)
    calls = message.tool_calls or []
    if message.function_call is not None and not calls:
        calls = [ToolCall(message.function_call)]
    if calls:
        made["tool_calls"] = [_call(call) for call in calls]
    return made


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    made = {"type": "function", "function": function}
    return made if call.id is None else {"id": call.id} | made


def _arguments(sent: Any) -> Any:
    """Parse arguments to an object; if they are not an object, return their text."""
    if sent is None or (isinstance(sent, str) and not sent.strip()):
        return {}
    if not isinstance(sent, str):
        return sent if isinstance(sent, dict) else json.dumps(sent, ensure_ascii=False)
    value: Any = sent
    for _ in range(2):  # JSON inside a JSON string is parsed too
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return sent
        if isinstance(value, dict):
            return value
        if not isinstance(value, str):
            return sent
    return sent


def _text(message: Message) -> str:
    content = message.content
    if content is None:
        return message.refusal or ""
    if isinstance(content, str):
        return content
    return "".join(part if isinstance(part, str) else _part(part) for part in content)


def _part(part: Part) -> str:
    if part.type in ("text", "input_text", "output_text") and part.text is not None:
        return part.text
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    raise unsupported("messages", f"content of type '{part.type}' is not supported; only text is")
