"""Translate requests of LM Studio's `/api/v1/chat` into chats. Chats are stateless.

Source of the keys: LM Studio's documentation, "Chat with a model".
"""

from typing import Any

import msgspec

from reconciler.worker.dialects.checking import checked
from reconciler.worker.dialects.translated import Translated
from reconciler.worker.errors import RequestError, unsupported

REASONING = ("off", "low", "medium", "high", "on")


class Item(msgspec.Struct):
    """A part of the input."""

    type: str
    content: str | None = None


class Chat(msgspec.Struct):
    """The body of `/api/v1/chat`."""

    model: str
    input: str | list[Item]
    system_prompt: str | None = None
    integrations: list[Any] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    max_output_tokens: int | None = None
    reasoning: str | None = None
    context_length: int | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    ttl: float | None = None


_SAME = ("model", "temperature", "top_p", "top_k", "min_p", "ttl")
_RENAMED = {"max_output_tokens": "max_tokens", "repeat_penalty": "repetition_penalty"}


def read(sent: dict[str, Any]) -> Translated:
    """Translate a request into a chat of one turn. Raises `RequestError`."""
    _refuse_unknown(sent)
    asked = checked(sent, Chat)
    if asked.integrations:
        words = "integrations are not supported: clients call tools themselves; leave it out"
        raise unsupported("integrations", words)
    if asked.previous_response_id:
        words = (
            "previous_response_id is not supported: chats are not stored; send the conversation "
            "to /v1/chat/completions"
        )
        raise unsupported("previous_response_id", words)
    system = [{"role": "system", "content": asked.system_prompt}] if asked.system_prompt else []
    made: dict[str, Any] = {"messages": [*system, *_input(asked.input)]}
    made |= {key: getattr(asked, key) for key in _SAME}
    made |= {own: getattr(asked, key) for key, own in _RENAMED.items()}
    made |= _reasoning(asked.reasoning)
    if asked.stream:
        made |= {"stream": True, "stream_options": {"include_progress": True}}
    names = {own: key for key, own in _RENAMED.items()}
    names |= {"messages": "input", "reasoning_effort": "reasoning", "enable_thinking": "reasoning"}
    warnings = ["store: chats are not stored; there is no response_id"] if asked.store else []
    echo: dict[str, Any] = {}
    if asked.context_length is not None:
        echo["context_length"] = asked.context_length
    return Translated(made, True, echo, warnings, names)  # noqa: FBT003


def _refuse_unknown(sent: dict[str, Any]) -> None:
    """Reject unknown keys, as LM Studio does. Raises `RequestError`."""
    known = Chat.__struct_fields__
    names = [name for name in sent if name not in known]
    if names:
        words = ", ".join(f"'{name[:80]}'" for name in names[:8])
        message = f"Unrecognized key(s) in object: {words}"
        raise RequestError(message, "unrecognized_keys", names[0])


def _input(sent: str | list[Item]) -> list[dict[str, Any]]:
    if isinstance(sent, str):
        return [{"role": "user", "content": sent}]
    parts = []
    for index, item in enumerate(sent):
        if item.type not in ("message", "text"):
            words = f"input[{index}].type '{item.type[:40]}' is not supported; only text is"
            raise unsupported("input", words)
        if item.content is None:
            words = f"input[{index}].content is missing"
            raise RequestError(words, "missing_required_parameter", f"input[{index}].content")
        parts.append({"role": "user", "content": item.content})
    if not parts:
        raise RequestError("input is empty", "invalid_value", "input")
    return parts


def _reasoning(sent: str | None) -> dict[str, Any]:
    if sent is None:
        return {}
    if sent not in REASONING:
        words = f"reasoning: '{sent[:40]}' is unknown; it must be one of {', '.join(REASONING)}"
        raise RequestError(words, "invalid_value", "reasoning")
    if sent in ("on", "off"):
        return {"enable_thinking": sent == "on"}
    return {"reasoning_effort": sent}
