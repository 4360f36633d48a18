"""Build mlx-lm's sampler and logits processors from a request's sampling parameters."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    make_logits_processors,
    make_sampler,
)

from reconciler.worker.sampling_parameters import Sampling

PENALTY_CONTEXT = 1024
"""Number of latest tokens that a penalty covers by default."""

COLDEST = 1e-3
"""Temperature below which sampling is greedy: dividing by less overflows float16."""


def sampler(asked: Sampling, vocabulary: int, special: Sequence[int] = ()) -> Callable[[Any], Any]:
    """Build a sampler: log-probabilities (batch, vocabulary) -> token ids (batch,).

    The default temperature is 1. With a seed the sampler has a random key of its own, so that the
    completion does not depend on the other requests of the batch. XTC never excludes `special`
    tokens.
    """
    temperature = 1.0 if asked.temperature is None else asked.temperature
    if is_greedy(asked):
        temperature = 0.0
    top_p, min_p, top_k = asked.top_p or 0.0, asked.min_p or 0.0, asked.top_k or 0
    if not 0 < top_k < vocabulary:
        top_k = 0
    xtc, threshold = asked.xtc_probability or 0.0, asked.xtc_threshold
    threshold = XTC_THRESHOLD if threshold is None else threshold
    if threshold > XTC_MOST:
        xtc = 0.0
    if temperature == 0 or (asked.seed is None and not xtc):
        return _shared(temperature, top_p, min_p, top_k)
    if asked.seed is None:
        made: Callable[[Any], Any] = make_sampler(
            temperature,
            top_p,
            min_p,
            top_k=top_k,
            xtc_probability=xtc,
            xtc_threshold=threshold,
            xtc_special_tokens=list(special),
        )
        return made

    def draw(logprobs: Any, next_key: Callable[[], Any]) -> Any:
        if 0 < top_p < 1:
            logprobs = apply_top_p(logprobs, top_p)
        if min_p:
            logprobs = apply_min_p(logprobs, min_p, 1)
        if xtc:
            excluded = _without_top_choices(logprobs, threshold, special)
            drawn = mx.random.uniform(key=next_key()) > xtc
            logprobs = mx.where(drawn, logprobs, excluded)
        if top_k:
            logprobs = apply_top_k(logprobs, top_k)
        return mx.random.categorical(logprobs / temperature, key=next_key())

    return Seeded(asked.seed, draw)


@lru_cache(maxsize=256)
def _shared(temperature: float, top_p: float, min_p: float, top_k: int) -> Callable[[Any], Any]:
    """Build a sampler, the same one for the same parameters: if all requests of a batch have it,
    mlx-lm samples all their tokens in one call. Each row has random numbers of its own.

    XTC draws one random number per call, so samplers with it are not shared.
    """
    made: Callable[[Any], Any] = make_sampler(temperature, top_p, min_p, top_k=top_k)
    return made


def is_greedy(asked: Sampling) -> bool:
    """True if the most likely token is always chosen."""
    return asked.temperature is not None and asked.temperature < COLDEST


class Seeded:
    """A sampler with its own random key, which is split for each token.

    mlx-lm's generators sample one token ahead. If the request is preempted, that token is lost, and
    must be sampled again with the same key.
    """

    def __init__(self, seed: int, draw: Callable[[Any, Callable[[], Any]], Any]) -> None:
        self._draw = draw
        self._key = self._key_before = mx.random.key(seed % 2**64)
        self._drawn = 0

    def __call__(self, logprobs: Any) -> Any:
        self._key_before = self._key
        self._drawn += 1
        return self._draw(logprobs, self._next_key)

    def _next_key(self) -> Any:
        self._key, now = mx.random.split(self._key)
        return now

    def go_on_after(self, tokens: int) -> None:
        """Continue after `tokens` tokens: all that were sampled, or all but the latest."""
        if tokens < self._drawn:
            self._key, self._drawn = self._key_before, tokens


XTC_THRESHOLD = 0.1
"""mlx_lm.server's default."""

XTC_MOST = 0.5
"""Maximum useful threshold: no two tokens can both be more likely, so that XTC has no effect."""


def _without_top_choices(logprobs: Any, threshold: float, special: Sequence[int]) -> Any:
    """Exclude all tokens above the threshold but the least likely one, as mlx-lm's `apply_xtc`."""
    probabilities = mx.softmax(logprobs, -1)
    likely = mx.where(probabilities > threshold, probabilities, mx.inf)
    mask = probabilities > likely.min(axis=-1, keepdims=True)
    if special:
        mask[..., list(special)] = False
    return mx.where(mask, -mx.inf, logprobs)


def processors(asked: Sampling, vocabulary: int) -> list[Any]:
    """Build the logits processors of a request.

    Raises ValueError for a bias of a token beyond the vocabulary: MLX would write out of bounds.
    """
    bias = {_id(token): value for token, value in (asked.logit_bias or {}).items()}
    if bias and not 0 <= min(bias) <= max(bias) < vocabulary:
        raise ValueError(f"logit_bias: a token id is not from 0 to {vocabulary - 1}")
    repetition, repetition_size = _penalty(
        asked.repetition_penalty, asked.repetition_context_size, neutral=1
    )
    presence, presence_size = _penalty(asked.presence_penalty, asked.presence_context_size)
    frequency, frequency_size = _penalty(asked.frequency_penalty, asked.frequency_context_size)
    made: list[Any] = make_logits_processors(
        bias or None,
        repetition_penalty=repetition,
        repetition_context_size=repetition_size,
        presence_penalty=presence,
        presence_context_size=presence_size,
        frequency_penalty=frequency,
        frequency_context_size=frequency_size,
    )
    return made


def _id(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) <= 10):
        raise ValueError(f"logit_bias: {token[:40]} is not a token id")
    return int(token)


def _penalty(
    penalty: float | None, size: int | None, neutral: float = 0
) -> tuple[float | None, int]:
    """Penalty, None if it is off, and the number of latest tokens that it covers."""
    if not penalty or penalty == neutral or size == 0:
        return None, PENALTY_CONTEXT
    # mlx-lm slices the latest tokens as `tokens[-size:]`: 0 means all of them.
    return penalty, PENALTY_CONTEXT if size is None else max(0, size)


def without_ends(ends: Sequence[int], prompt: int, least: int) -> Callable[[Any, Any], Any]:
    """Build a processor that forbids the stop tokens `ends` for the first `least` tokens.

    `prompt`: length of the prompt [tokens].
    """
    tokens = mx.array(list(ends), dtype=mx.int32)

    def forbid(context: Any, logits: Any) -> Any:
        if len(context) - prompt >= least:
            return logits
        logits[:, tokens] = -mx.inf
        return logits

    return forbid
