"""What a request means: the chat or text completion that it is translated into."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.dialects import Dialect


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
    names: Mapping[str, str] = field(default_factory=dict)
    """Key of `sent` -> key of the request that it was made of, for messages."""


Read = Callable[[dict[str, Any]], Translated]
"""Raises `RequestError` naming the key as the client knows it."""


def _text(sent: dict[str, Any]) -> Translated:
    return Translated(sent, chat=False)


READERS: dict[Dialect, Read] = {
    Dialect.CHAT: Translated,
    Dialect.TEXT: _text,
}
