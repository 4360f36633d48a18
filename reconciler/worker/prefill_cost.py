"""Time of prefill chunks, predicted from the chunks before, and chunks that fit in a time.

A token costs more, the more tokens are in the KV cache before it. So the cost of a token is a
straight line over its position: the model's own cost, plus attention.

Predictions are careful where little is known: the first chunk is small, a chunk is at most twice as
large as those before it, a slow chunk counts at once, and a position far beyond the known ones
begins with a small chunk again.
"""

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from statistics import fmean

LEAST = 16
"""Tokens of the smallest chunk, over all prompts of a batch. Measured with llamas of 13 and 20
million parameters on a CPU, a token in a chunk of 16 costs up to a ninth more than in one of 256,
in a chunk of 4 up to a half more, and alone more than twice as much: smaller chunks would delay the
prompt more than they help the streams."""

GRAIN = 8
"""Tokens by which the sizes of chunks differ."""

AIM = 0.8
"""Share of the budget that a chunk is expected to take; the rest allows for its variation."""

REMEMBERED = 8
"""Number of chunks from which the cost is learned. The machine's other load changes the cost."""

GROWTH = 2
"""Maximum ratio of a chunk to the largest remembered one."""

NEAR = 512
"""Tokens by which a position may always exceed the known ones; see `PrefillCost.per_token`."""


@dataclass(frozen=True)
class _Chunk:
    position: float
    """Mean position of its tokens in their prompts."""
    tokens: int
    seconds: float

    @property
    def per_token(self) -> float:
        return self.seconds / self.tokens


class PrefillCost:
    """Time of prefill chunks, learned from the last ones."""

    def __init__(self) -> None:
        self._chunks: deque[_Chunk] = deque(maxlen=REMEMBERED)

    def learn(self, width: int, rows: int, begin: int, seconds: float) -> None:
        """Record a chunk of `width` tokens of each of `rows` prompts, read from position `begin`.

        Small chunks, such as the rest of a segment, are ignored: a token costs more in them.
        """
        if 2 * width * rows >= LEAST and seconds > 0:
            self._chunks.append(_Chunk(begin + width / 2, width * rows, seconds))

    def per_token(self, position: float) -> float:
        """Expected seconds for a token at this position; infinite if nothing is known about it.

        The line of least squares through the remembered chunks, rising, and not below the last one.
        """
        if not self._chunks or position > 2 * max(c.position for c in self._chunks) + NEAR:
            return math.inf
        place = fmean(c.position for c in self._chunks)
        cost = fmean(c.per_token for c in self._chunks)
        variance = fmean((c.position - place) ** 2 for c in self._chunks)
        slope = 0.0
        if variance > 0:
            together = fmean((c.position - place) * (c.per_token - cost) for c in self._chunks)
            # The model's own cost is not negative, so the line is at most as steep as through zero.
            slope = min(max(0.0, together / variance), cost / place)
        return max(cost + slope * (position - place), self._chunks[-1].per_token)

    def seconds(self, tokens: float, rows: int, begin: int) -> float:
        """Expected seconds for a chunk of `tokens` in all, read from position `begin`."""
        return tokens * self.per_token(begin + tokens / rows / 2)

    def width(self, budget: float, rows: int, begin: int, most: int) -> int:
        """Tokens of each of `rows` prompts for the next chunk, to take at most `budget` seconds.

        At least `LEAST` tokens in all, and at most `most` of each prompt. An infinite budget: all.
        """
        if math.isinf(budget):
            return most
        largest = max([LEAST, *(chunk.tokens for chunk in self._chunks)])
        sizes = range(LEAST, min(rows * most, GROWTH * largest) + 1, GRAIN)
        fitting = bisect_right(
            sizes, AIM * budget, key=lambda tokens: self.seconds(tokens, rows, begin)
        )
        tokens = LEAST + GRAIN * max(0, fitting - 1)
        return max(1, min(most, tokens // rows))
