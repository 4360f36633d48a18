"""What a load needs and what there is.

Weights are exact (from the headers) and counted once per checkpoint. The KV cache is an upper
bound from config.json: every layer is taken to attend to everything.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from reconciler.core.facts import Checkpoint
from reconciler.core.records import Asked, Instance

DEFAULT_CONTEXT_COUNTED = 8192
"""Tokens of KV cache counted for an instance whose context length is a limit, not a wish."""


def session_bytes(checkpoint: Checkpoint, asked: Asked, context_length: int) -> int:
    """KV cache that admission counts: all of an asked-for context, a part of a default one."""
    tokens = context_length
    if asked.context_length is None:
        tokens = min(tokens, DEFAULT_CONTEXT_COUNTED)
    return tokens * checkpoint.kv_bytes_per_token


def largest_context(checkpoint: Checkpoint, budget: int) -> int:
    """Tokens of KV cache that fit beside these weights if nothing else is loaded.

    0 if not even the weights fit. Without known KV bytes there is no such limit and
    the result is the budget itself, which no context reaches.
    """
    return max(0, budget - checkpoint.weights_bytes) // max(1, checkpoint.kv_bytes_per_token)


@dataclass
class Ledger:
    """Who holds what, in bytes. Weights are held by checkpoint, sessions by instance name."""

    budget: int
    weights: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, tuple[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, budget: int, instances: Iterable[Instance]) -> Self:
        """The ledger of what is loaded."""
        ledger = cls(budget)
        for i in instances:
            ledger.hold(i.name, i.checkpoint, i.weights_bytes, i.session_bytes)
        return ledger

    def hold(self, name: str, checkpoint: str, weights: int, session: int) -> None:
        """Count `name`, in place of what it held before."""
        self.release(name)
        self.weights[checkpoint] = weights
        self.sessions[name] = (checkpoint, session)

    def release(self, name: str) -> None:
        """Give back what `name` holds, with the weights if nobody else holds them."""
        checkpoint, _ = self.sessions.pop(name, (None, 0))
        if checkpoint and all(c != checkpoint for c, _ in self.sessions.values()):
            self.weights.pop(checkpoint, None)

    def without(self, name: str) -> "Ledger":
        """A copy in which `name` holds nothing."""
        copy = Ledger(self.budget, dict(self.weights), dict(self.sessions))
        copy.release(name)
        return copy

    @property
    def used(self) -> int:
        """Bytes held by all."""
        return sum(self.weights.values()) + sum(size for _, size in self.sessions.values())

    def missing(self, checkpoint: str, weights: int, session: int) -> int:
        """Bytes short for one more instance; 0 or less if it fits."""
        needed = session + (0 if checkpoint in self.weights else weights)
        return self.used + needed - self.budget

    def holders(self) -> Mapping[str, int]:
        """Bytes by instance name; shared weights are told with the first that holds them."""
        told: set[str] = set()
        result = {}
        for name, (checkpoint, size) in self.sessions.items():
            result[name] = size + (0 if checkpoint in told else self.weights[checkpoint])
            told.add(checkpoint)
        return result


def readable_bytes(size: int) -> str:
    """Bytes for people: `1.5 GB`, `20.0 MB`, `512 B`, in powers of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
