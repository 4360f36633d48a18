"""How the MLX thread is getting on: told by it, read by the thread that is asked."""

from collections.abc import Iterator
from contextlib import contextmanager

SLOWEST_TOKENS_PER_SECOND = 10.0
"""A step that computes fewer is taken for hung. It may compute a piece of several long prompts; a
model that takes longer for one is of no use either."""

LONG_JOB_SECONDS = 300.0
"""That reading one piece of weights, or opening a session, may take: a slow disk, a large model's
first token."""


class Heartbeat:
    """Beats whenever something was finished."""

    def __init__(self) -> None:
        self.beats = 0
        self.allowance = 0.0
        """Seconds that what is under way may take."""

    def beat(self) -> None:
        """Something was finished."""
        self.beats += 1

    @contextmanager
    def beating(self, allowance: float = 0.0) -> Iterator[None]:
        """Around something that may take `allowance` seconds, or what it is a part of more."""
        before = self.allowance
        self.allowance = max(before, allowance)
        try:
            yield
        finally:
            # In this order, and read in the other: who sees the old beat sees its allowance too.
            self.beats += 1
            self.allowance = before
