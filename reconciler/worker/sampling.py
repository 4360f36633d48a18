"""A request's sampling parameters -> mlx-lm's sampler and logits processors."""

from collections.abc import Callable
from typing import Annotated, Any

import mlx.core as mx
import msgspec
from mlx_lm.sample_utils import (
    apply_min_p,
    apply_top_k,
    apply_top_p,
    make_logits_processors,
    make_sampler,
)

PENALTY_CONTEXT = 1024
"""Latest tokens that a presence or frequency penalty looks at."""


class Sampling(msgspec.Struct):
    """OpenAI's parameters, and those that local servers' clients send besides."""

    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    seed: int | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None


def sampler(asked: Sampling) -> Callable[[Any], Any]:
    """Log-probabilities (batch, vocabulary) -> token ids (batch,). Temperature 1 by default.

    With a seed it carries a key of its own, so that the answer does not depend on who else is
    in the batch.
    """
    temperature = 1.0 if asked.temperature is None else asked.temperature
    top_p, min_p, top_k = asked.top_p or 0.0, asked.min_p or 0.0, asked.top_k or 0
    if asked.seed is None or temperature == 0:
        return make_sampler(temperature, top_p, min_p, top_k=top_k)  # type: ignore[no-any-return]
    key = mx.random.key(asked.seed % 2**64)

    def seeded(logprobs: Any) -> Any:
        nonlocal key
        if 0 < top_p < 1:
            logprobs = apply_top_p(logprobs, top_p)
        if min_p:
            logprobs = apply_min_p(logprobs, min_p, 1)
        if top_k:
            logprobs = apply_top_k(logprobs, top_k)
        key, now = mx.random.split(key)
        return mx.random.categorical(logprobs / temperature, key=now)

    return seeded


def processors(asked: Sampling, vocabulary: int) -> list[Any]:
    """What changes the logits before sampling.

    Raises ValueError for a bias of a token beyond the vocabulary: MLX would write out of bounds.
    """
    bias: dict[int, float] = {}
    for token, value in (asked.logit_bias or {}).items():
        if not token.isdecimal() or int(token) >= vocabulary:
            raise ValueError(f"logit_bias: {token} is not a token id from 0 to {vocabulary - 1}")
        bias[int(token)] = value
    made: list[Any] = make_logits_processors(
        bias or None,
        presence_penalty=asked.presence_penalty,
        presence_context_size=PENALTY_CONTEXT,
        frequency_penalty=asked.frequency_penalty,
        frequency_context_size=PENALTY_CONTEXT,
    )
    return made
