"""Chunks of prompts for the steps of a session, and the tokens that a step computes.

The times of earlier chunks predict the time of the next one (`prefill_cost`). The stall budget
bounds it.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

from reconciler.worker.generators import Read
from reconciler.worker.pending import Request
from reconciler.worker.prefill_cost import PrefillCost

GAPS = 5
"""Number of steps from which the usual gap is learned."""

WITHOUT = 16
"""After so many steps that both prefilled and generated, one only generates. Otherwise the usual
gap would not be learned while prompts wait all the time, and more streams make it longer."""


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


def most_tokens(running: Sequence[int], scored: Sequence[int], together: int) -> int:
    """Maximum tokens that a step computes: a chunk of each of some prompts, padded to the longest,
    and one token of each other request.

    `running`, `scored`: tokens of the next chunk of each prompt in the generator, and of each one
    that is scored; `together`: maximum number of prompts that a step prefills together.
    """
    chunks = [*running, *scored]
    reading = min(together + bool(scored), sum(chunk > 0 for chunk in chunks))
    return reading * max(chunks, default=0) + len(running)
