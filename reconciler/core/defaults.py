"""Default values for the keys that a completion request omits, with their sources.

A record's `defaults` take precedence over the checkpoint's generation_config.json, and a request
over both. The keys have the names of OpenAI's requests; their bounds are defined only in
`schemas/defaults.schema.json`, which validates manifests, load requests and generation_config.json.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

Source = Literal["record", "generation_config"]


@dataclass(frozen=True)
class Defaults:
    """Values for keys of requests. None: not set."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    """-1: no limit."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    max_tokens: int | None = None
    """-1: until the context is full."""
    seed: int | None = None
    """-1: a new one for each request."""
    reasoning_effort: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    system_prompt: str | None = None
    """System message for a chat without one."""

    def sent(self) -> dict[str, Any]:
        """Keys that have a value."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {key: value for key, value in pairs if value is not None}


NO_DEFAULTS = Defaults()

DEFAULTS = tuple(f.name for f in fields(Defaults))

OFF = {"top_k": -1, "max_tokens": -1, "seed": -1}
"""Values that are equivalent to omitting the key from a request."""


@dataclass(frozen=True)
class Default:
    """A default in force."""

    key: str
    value: Any
    source: Source


def in_force(asked: Defaults, published: Defaults) -> tuple[Default, ...]:
    """The record's defaults, and those of generation_config.json for all other keys."""
    sources: tuple[tuple[Source, dict[str, Any]], ...] = (
        ("generation_config", published.sent()),
        ("record", asked.sent()),
    )
    found = {key: Default(key, v, source) for source, sent in sources for key, v in sent.items()}
    return tuple(found[key] for key in DEFAULTS if key in found)


def for_requests(defaults: Iterable[Default]) -> dict[str, Any]:
    """Values to add to a request for the keys that it omits."""
    return {d.key: d.value for d in defaults if d.value != OFF.get(d.key)}
