"""Bound the time that streams wait while prompts of other requests are prefilled.

A stream gets no token while a chunk of another prompt is prefilled. So beside a stream, chunks are
made so small that they take no longer than the stall budget; without a stream, they are as large as
`eval_batch_size` permits. A worker has one budget, because its sessions share the MLX thread. Each
session predicts the time of its own chunks.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Protocol

from reconciler.worker.generators import Read
from reconciler.worker.pending import Request
from reconciler.worker.prefill_cost import PrefillCost

USUAL = 8
"""Minimum of the budget, in usual gaps between two tokens. Each step also generates a token and
reads all weights once more: beside eight gaps, less than a third of its time, for any model."""

GAPS = 5
"""Number of steps from which the usual gap is learned."""

WITHOUT = 16
"""After so many steps that both prefilled and generated, one only generates. Otherwise the usual
gap would not be learned while prompts wait all the time, and more streams make it longer."""


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


class StepSizes:
    """Chooses the chunks of a session's steps, and learns from their durations."""

    def __init__(self, most: int) -> None:
        """`most`: maximum tokens of a prompt in a step (`eval_batch_size`)."""
        self._most = most
        self._read, self._scored = PrefillCost(), PrefillCost()
        self._gaps: deque[float] = deque(maxlen=GAPS)
        self._mixed = 0
        """Steps that prefilled and generated, since one that only generated."""

    @property
    def usual_gap(self) -> float:
        """Median time of the last steps that only generated tokens [s]; 0 if there were none."""
        return median(self._gaps) if self._gaps else 0.0

    def choose(
        self, budget: float, read: Sequence[Request], scored: Sequence[Request]
    ) -> tuple[int, int]:
        """Maximum tokens of a prompt that a step prefills, and of a prompt that it scores.

        `budget`: maximum time for both [s]; `read`, `scored`: the requests whose prompts they are.
        """
        if self._mixed >= WITHOUT and not math.isinf(budget):
            self._mixed = 0  # also if it has no stream of its own any more
            return 0, 0
        budget /= max(1, bool(read) + bool(scored))
        return self._width(self._read, budget, read), self._width(self._scored, budget, scored)

    def _width(self, cost: PrefillCost, budget: float, requests: Sequence[Request]) -> int:
        if not requests:
            return self._most
        return cost.width(budget, len(requests), _furthest(requests), self._most)

    def learn(
        self, pieces: Sequence[tuple[Request, Read]], seconds: float, *, generated: bool
    ) -> None:
        """Record a step of the generator, before the progress of its prompts is recorded.

        `generated`: True if it also generated tokens for other requests.
        """
        if not pieces:
            if generated:
                self._gaps.append(seconds)
                self._mixed = 0
            return
        # Last tokens of prompts are computed with the first ones of the completions.
        chunks = [(request, piece) for request, piece in pieces if piece.done < piece.total]
        if not chunks:
            return
        self._mixed += generated
        width = max(request.unread - (piece.total - piece.done) for request, piece in chunks)
        begin = _furthest([request for request, _ in chunks])
        self._read.learn(
            width, len(chunks), begin, seconds - self.usual_gap if generated else seconds
        )

    def learn_score(self, width: int, begin: int, seconds: float) -> None:
        """Record a chunk of `width` tokens of a prompt that is scored, from position `begin`."""
        self._scored.learn(width, 1, begin, seconds)


def _furthest(requests: Iterable[Request]) -> int:
    """Position up to which the longest of these prompts is prefilled: others are padded to it."""
    return max(len(request.prompt) - request.unread for request in requests)
