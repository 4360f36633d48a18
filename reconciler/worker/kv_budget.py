"""KV cache budget: the memory that a session's requests use, and the check for one more.

Each request of a batch is padded to the longest one. So a batch counts as the number of its
requests times the longest.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from reconciler.core.facts import Shapes
from reconciler.core.footprint import batch_bytes, most_tokens
from reconciler.core.protocol import NO_LEASE, Lease
from reconciler.core.records import EffectiveSettings


class InsufficientMemoryError(RuntimeError):
    """The KV cache of the request would not fit even if nothing else ran."""


@dataclass
class KVBudget:
    """Memory that a session may use for KV caches and prefill [bytes]."""

    config: EffectiveSettings
    shapes: Shapes = field(default_factory=lambda: Shapes(0))
    reserved: int = sys.maxsize
    """Memory reserved for this session when it was admitted."""
    lease: Lease = NO_LEASE
    """Memory beyond `reserved`, as last granted by the daemon."""

    @property
    def everything(self) -> int:
        """Memory that requests may use now [bytes]."""
        return self.reserved + self.lease.allowed

    def most_tokens(self) -> int:
        """Maximum tokens of a request that runs alone."""
        return most_tokens(self.shapes, self.config, self.everything, self.config.context_length)

    def fits(self, lengths: Sequence[int]) -> bool:
        """True if requests of these lengths [tokens] can run together."""
        return self.taken(lengths) <= self.everything

    def take(self, lease: Lease) -> None:
        """Apply a lease, unless a later one is in force."""
        if lease.serial > self.lease.serial:
            self.lease = lease

    def in_use(self, lengths: Sequence[int]) -> int:
        """Memory that requests of these lengths use beyond `reserved` [bytes]."""
        return max(0, self.taken(lengths) - self.reserved)

    def left(self, lengths: Sequence[int]) -> int:
        """Memory that requests of these lengths leave for the prompt cache [bytes]."""
        return max(0, self.everything - self.taken(lengths))

    def taken(self, lengths: Sequence[int]) -> int:
        """Memory that requests of these lengths use together [bytes]."""
        return batch_bytes(self.shapes, self.config, len(lengths), max(lengths, default=0))
