"""A request of a dialect, as the completion that it means."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Translated:
    """A request as a completion of OpenAI's form."""

    sent: dict[str, Any]
    """The body, with the keys of `core.request_keys`."""
    chat: bool = True
    echo: dict[str, Any] = field(default_factory=dict)
    """What the answer repeats of the request, or depends on, as plain JSON."""
    warnings: list[str] = field(default_factory=list)
    """What was sent and has no effect."""
    names: dict[str, str] = field(default_factory=dict)
    """Keys of `sent` as the client knows them, for errors and warnings; see `naming`."""
    reminders: list[int] = field(default_factory=list)
    """Indices of system messages that belong where they stand, in the middle of the chat."""
    deferred_tools: list[dict[str, Any]] = field(default_factory=list)
    """Tools that the model may call, which the messages tell it of and `tools` does not."""
    untemplated: "Translated | None" = None
    """What a chat means to a model without a chat template; None: nothing, it is refused."""
