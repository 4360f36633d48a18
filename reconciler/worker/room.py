"""What requests' KV caches take of a session's memory, and whether one more fits.

A batch is as long as its longest request: each of the others is padded to it. So the KV cache of
a batch is counted as the number of its requests times the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

UNCOUNTED = 2**28
"""Bytes for the kept caches of a model whose KV cache does not grow, or is not known to."""


@dataclass
class Room:
    """The memory that a session may fill with KV cache, in bytes."""

    bytes_per_token: int = 0
    """0: there is no KV cache that grows, so everything fits."""
    reserved: int = 0
    """Held for this session when it was admitted."""
    spare: int = 0
    """Held for nobody, as the daemon last said."""

    def most_tokens(self) -> int | None:
        """Of one request that runs alone; None: any number."""
        if not self.bytes_per_token:
            return None
        return (self.reserved + self.spare) // self.bytes_per_token

    def fits(self, lengths: Sequence[int]) -> bool:
        """Whether requests of these lengths, in tokens, can run together."""
        return self._taken(lengths) <= self.reserved + self.spare

    def left(self, lengths: Sequence[int]) -> int:
        """Bytes that they leave of what is held for the session."""
        if not self.bytes_per_token:
            return UNCOUNTED
        return max(0, self.reserved - self._taken(lengths))

    def _taken(self, lengths: Sequence[int]) -> int:
        return len(lengths) * max(lengths, default=0) * self.bytes_per_token
