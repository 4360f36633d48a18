"""Log-probabilities of a chosen token and of the likeliest in its place.

Sorting a vocabulary of 150,000 takes longer than generating the token. Of `number` tokens each is
in a block whose maximum is among the `number` largest maxima: only those blocks are looked at, and
only the answer leaves MLX.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import mlx.core as mx

BLOCK = 512
"""Tokens of a block: about the square root of a vocabulary, which is what takes the least time."""


@dataclass(frozen=True)
class Likelihood:
    """The log-probability of a chosen token, and of the likeliest in its place."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]
    """Token ids with theirs, the likeliest first."""


def likelihood(token: int, logprobs: Any, number: int) -> Likelihood:
    """Of a token and of the `number` likeliest; logprobs: (vocabulary,). On the MLX thread."""
    number = min(number, logprobs.size)
    if number == 0:
        return Likelihood(token, logprobs[token].item(), ())
    ids = _likeliest(logprobs, number)
    chosen, values = logprobs[token], logprobs[ids]
    mx.eval(chosen, ids, values)
    found = zip(ids.tolist(), values.tolist(), strict=True)
    # A token that a grammar forbids is no alternative, and minus infinity is no JSON.
    pairs = [pair for pair in found if pair[1] > -inf]
    best = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    return Likelihood(token, chosen.item(), tuple(best))


def _likeliest(logprobs: Any, number: int) -> Any:
    """Ids of the `number` largest, in any order: (vocabulary,) -> (number,)."""
    blocks = logprobs.size // BLOCK
    if blocks <= number:
        return _largest(logprobs, number)
    whole = blocks * BLOCK
    rows = _largest(logprobs[:whole].reshape(blocks, BLOCK).max(axis=1), number)
    ids = (rows[:, None] * BLOCK + mx.arange(BLOCK, dtype=rows.dtype)).reshape(-1)
    ids = mx.concatenate([ids, mx.arange(whole, logprobs.size, dtype=rows.dtype)])
    return ids[_largest(logprobs[ids], number)]


def _largest(values: Any, number: int) -> Any:
    return mx.argpartition(-values, kth=number - 1)[:number]
