"""What requests take of a session's memory, and whether one more fits.

A batch is as long as its longest request: each of the others is padded to it. So a batch is
counted as the number of its requests times the longest.
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
    """The memory that a session may fill with KV cache and with reading prompts, in bytes."""

    config: EffectiveSettings
    shapes: Shapes = field(default_factory=lambda: Shapes(0))
    reserved: int = sys.maxsize
    """Held for this session when it was admitted."""
    lease: Lease = NO_LEASE
    """What may be taken beside that, as the daemon last said."""

    @property
    def everything(self) -> int:
        """Bytes that requests may take now."""
        return self.reserved + self.lease.allowed

    def most_tokens(self) -> int:
        """Of one request that runs alone."""
        return most_tokens(self.shapes, self.config, self.everything, self.config.context_length)

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether requests of these lengths, in tokens, can run together."""
        return self.taken(lengths) <= self.everything

    def take(self, lease: Lease) -> None:
        """Put a lease in force, unless a later one is."""
        if lease.serial > self.lease.serial:
            self.lease = lease

    def in_use(self, lengths: Sequence[int]) -> int:
        """Bytes that requests of these lengths take beside what is reserved."""
        return max(0, self.taken(lengths) - self.reserved)

    def left(self, lengths: Sequence[int]) -> int:
        """Bytes that they leave for kept prompts."""
        return max(0, self.everything - self.taken(lengths))

    def taken(self, lengths: Sequence[int]) -> int:
        """Bytes that requests of these lengths take together."""
        return batch_bytes(self.shapes, self.config, len(lengths), max(lengths, default=0))
