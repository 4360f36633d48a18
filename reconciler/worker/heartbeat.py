"""Heartbeat of the MLX thread: written by that thread, read by the HTTP thread."""

from collections.abc import Iterator
from contextlib import contextmanager

SLOWEST_TOKENS_PER_SECOND = 10.0
"""A step that computes fewer counts as hung. A step may prefill chunks of several long prompts. A
model that is slower than this is of no practical use."""

LONG_JOB_SECONDS = 300.0
"""Time limit for reading one chunk of weights, or for opening a session: allows for a slow disk and
for a large model's first token."""


class Heartbeat:
    """Counter of finished work, with the time limit of the work in progress."""

    def __init__(self) -> None:
        self.beats = 0
        self.allowance = 0.0
        """Time limit of the work in progress [s]."""

    def beat(self) -> None:
        """Count a finished unit of work."""
        self.beats += 1

    @contextmanager
    def beating(self, allowance: float = 0.0) -> Iterator[None]:
        """Set a time limit of `allowance` seconds for the block, and beat at its end.

        Within a block that has a longer limit, the longer one applies.
        """
        before = self.allowance
        self.allowance = max(before, allowance)
        try:
            yield
        finally:
            # Read in the reverse order: a reader that sees the old beat also sees its allowance.
            self.beats += 1
            self.allowance = before
