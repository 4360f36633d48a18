"""Log-probabilities of a sampled token and of the most likely tokens at its position.

Sorting a vocabulary of 150,000 takes longer than generating the token. Each of the `number` most
likely tokens is in a block whose maximum is among the `number` largest block maxima. So only those
blocks are searched, and only the result is copied out of MLX.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import mlx.core as mx

BLOCK = 512
"""Tokens of a block. The square root of a vocabulary, about this size, takes the least time."""


@dataclass(frozen=True)
class Likelihood:
    """Log-probabilities of a sampled token and of the most likely tokens at its position."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]
    """Token ids with their log-probabilities, most likely first."""


def likelihood(token: int, logprobs: Any, number: int) -> Likelihood:
    """Likelihood of a token, with `number` alternatives; logprobs: (vocabulary,). MLX thread."""
    return likelihoods([token], logprobs[None], number)[0]


def likelihoods(tokens: Sequence[int], logprobs: Any, number: int) -> list[Likelihood]:
    """Likelihood of a token per row, with `number` alternatives; logprobs: (rows, vocabulary)."""
    number = min(number, logprobs.shape[-1])
    chosen = mx.take_along_axis(logprobs, mx.array(list(tokens))[:, None], axis=-1)[:, 0]
    ids = _likeliest(logprobs, number) if number else mx.zeros((len(tokens), 0), mx.uint32)
    values = mx.take_along_axis(logprobs, ids, axis=-1)
    mx.eval(chosen, ids, values)
    columns: list[Any] = [chosen.tolist(), ids.tolist(), values.tolist()]
    return [
        Likelihood(token, max(LEAST, value), _best(zip(others, theirs, strict=True)))
        for token, value, others, theirs in zip(tokens, *columns, strict=True)
    ]


LEAST = -9999.0
"""Reported log-probability of an impossible token, as in OpenAI's API: JSON has no infinity."""


def _best(found: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Sort the possible tokens, most likely first."""
    # Tokens that a grammar forbids have minus infinity, which JSON does not have.
    pairs = [pair for pair in found if pair[1] > -inf]
    return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _likeliest(logprobs: Any, number: int) -> Any:
    """Ids of the `number` largest values, in any order: (rows, vocabulary) -> (rows, number)."""
    rows, size = logprobs.shape
    blocks = size // BLOCK
    if blocks <= number:
        return _largest(logprobs, number)
    whole = blocks * BLOCK
    maxima = logprobs[:, :whole].reshape(rows, blocks, BLOCK).max(axis=-1)
    best = _largest(maxima, number)
    ids = (best[:, :, None] * BLOCK + mx.arange(BLOCK, dtype=best.dtype)).reshape(rows, -1)
    rest = mx.arange(whole, size, dtype=best.dtype)
    ids = mx.concatenate([ids, mx.broadcast_to(rest, (rows, size - whole))], axis=-1)
    found = _largest(mx.take_along_axis(logprobs, ids, axis=-1), number)
    return mx.take_along_axis(ids, found, axis=-1)


def _largest(values: Any, number: int) -> Any:
    if number == 1:
        return mx.argmax(values, axis=-1, keepdims=True)
    return mx.argpartition(-values, kth=number - 1, axis=-1)[:, :number]
