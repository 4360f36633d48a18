"""A request in the form into which every dialect is translated."""

from collections.abc import Mapping
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
    names: Mapping[str, str] = field(default_factory=dict)
    """Key of `sent` -> key of the request that it was made of, for messages."""
