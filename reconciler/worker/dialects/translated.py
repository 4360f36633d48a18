"""A dialect's request, translated into a completion."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Translated:
    """A completion in OpenAI's form, translated from a request."""

    sent: dict[str, Any]
    """Body of the completion, with the keys of `core.request_keys`."""
    chat: bool = True
    echo: dict[str, Any] = field(default_factory=dict)
    """Request fields that the response echoes or depends on, as plain JSON."""
    warnings: list[str] = field(default_factory=list)
    """Warnings about ignored fields."""
    names: dict[str, str] = field(default_factory=dict)
    """Client's names of keys in `sent`, for errors and warnings; see `naming`."""
    reminders: list[int] = field(default_factory=list)
    """Indices of system messages that stay at their position in the middle of the chat."""
    deferred_tools: list[dict[str, Any]] = field(default_factory=list)
    """Tools that the model may call and that the messages define, not `tools`."""
    untemplated: "Translated | None" = None
    """Alternative for a model without a chat template; None: the chat is rejected."""
