"""Bound the time that streams wait while prompts of other requests are prefilled.

A stream gets no token while a chunk of another prompt is prefilled. So beside a stream, chunks are
made so small that they take no longer than the stall budget; without a stream, they are as large as
`eval_batch_size` permits. A worker has one budget, because its sessions share the MLX thread. Each
session predicts the time of its own chunks (`step_sizes`).
"""

import math
from collections.abc import Iterable
from typing import Protocol

USUAL = 8
"""Minimum of the budget, in usual gaps between two tokens. Each step also generates a token and
reads all weights once more: beside eight gaps, less than a third of its time, for any model."""


class StallBudget:
    """Maximum gap between two tokens of a stream while prompts are prefilled, in one worker."""

    def __init__(self, seconds: float = math.inf) -> None:
        """`seconds`: the budget, unless `USUAL` gaps are longer; infinite: none."""
        self._seconds = seconds

    def of_step(self, sessions: Iterable["Streaming"]) -> float:
        """Seconds that the next step of one of these sessions may prefill; infinite: any number.

        Several sessions that prefill prompts share the budget: each may be stepped in one gap.
        """
        busy = list(sessions)
        reading = sum(session.prefills for session in busy)
        gaps = [session.usual_gap for session in busy if session.streams] if reading else []
        if not gaps:
            return math.inf
        usual = max(gaps)
        return (max(self._seconds, USUAL * usual) - usual) / reading


class Streaming(Protocol):
    """A session, as the stall budget sees it."""

    @property
    def streams(self) -> bool:
        """True if a client receives tokens as they are generated."""

    @property
    def prefills(self) -> bool:
        """True if a prompt is being prefilled."""

    @property
    def usual_gap(self) -> float:
        """Usual time between two tokens [s]; 0 if unknown."""
