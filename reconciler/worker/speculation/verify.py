"""Check drafts in one forward pass, inside mlx-lm's `GenerationBatch`.

Between its steps the batch holds the KV cache of exactly `tokens`, and the next token, which is
chosen but not yet in the cache. A pass computes this token and its drafts together. The accepted
ones stay in the cache, the others are trimmed, and the choice after the last accepted one becomes
the batch's next token. So the batch is in the same state as after ordinary steps: requests join it,
leave it and are copied from it as ever.

A pass over several tokens rounds differently from a pass over one. So a greedy choice counts only
if it leads by more than rounding can change (`LEADS`); else the token is computed again by an
ordinary step.
"""

# ruff: noqa: SLF001  mlx-lm has no public API for the state of a batch

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import greedy_sampler

from reconciler.worker.generators import Generated

LEADS = {mx.float32: 1e-4, mx.float16: 2**-7}
LEAD = 2**-5
"""Least lead of the best logit over the second, relative to the largest absolute value, by the type
of the logits; `LEAD` for bfloat16 and others. Eight times the precision of a 16-bit type, and much
more than that of float32, in which passes over 1 and over 17 tokens differ by about 1e-6."""


@dataclass(frozen=True)
class Verified:
    """Result of a pass."""

    accepted: int
    """Drafts that are now part of the answer."""
    generated: list[Generated]
    """Tokens of the answer that are now final, in order; empty if the first choice was unsure."""
    unsure: bool
    """True if the next token has to be followed by an ordinary step."""


def remaining(generator: BatchGenerator) -> int:
    """Tokens that the only request of the batch may still generate."""
    batch: Any = generator._generation_batch
    return int(batch.max_tokens[0] - batch._num_tokens[0])


def next_token(generator: BatchGenerator) -> int:
    """The chosen next token of the only request of the batch. Waits until it is computed."""
    batch: Any = generator._generation_batch
    return int(batch._next_tokens.item())


def verify(generator: BatchGenerator, drafts: Sequence[int]) -> Verified:
    """Check drafts of the tokens that follow the next token of the only request of the batch.

    The request has no logits processors, its caches can be rewound, and it may generate more tokens
    than there are drafts. Propagates the model's exceptions.
    """
    batch: Any = generator._generation_batch
    with mx.stream(generator.stream):
        drafted = mx.array(list(drafts), batch._next_tokens.dtype)
        inputs: Any = mx.concatenate([batch._next_tokens, drafted])
        logits = batch.model(inputs[None], cache=batch.prompt_cache)[0]
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        sampler = (batch.samplers or [None])[0] or batch.fallback_sampler
        if sampler is greedy_sampler:
            chosen, sure = sampler(logprobs), _sure(logits)
        else:  # one call per token, as in ordinary steps: a call may draw one number for all rows
            rows = range(len(drafts) + 1)
            chosen = mx.concatenate([sampler(logprobs[row : row + 1]) for row in rows])
            sure = mx.ones(chosen.shape, mx.bool_)
        mx.eval(inputs, chosen, sure, logprobs)
        return _advance(batch, inputs.tolist(), chosen, sure.tolist(), logprobs)


def _sure(logits: Any) -> Any:
    """True for each row whose largest element leads all others clearly: (rows,)."""
    best = logits.max(axis=-1, keepdims=True).astype(mx.float32)
    size = mx.abs(logits).max(axis=-1, keepdims=True).astype(mx.float32)
    lead = LEADS.get(logits.dtype, LEAD) * size
    return (logits >= best - lead).sum(axis=-1) == 1


def _advance(
    batch: Any, inputs: list[int], chosen: Any, sure: list[bool], logprobs: Any
) -> Verified:
    """Move the batch on by the accepted tokens."""
    choices = chosen.tolist()
    accepted = 0
    while (
        accepted < len(inputs) - 1 and sure[accepted] and choices[accepted] == inputs[accepted + 1]
    ):
        accepted += 1
    unsure = not sure[accepted]
    final = accepted if unsure else accepted + 1
    rows = [batch._next_logprobs[0], *(logprobs[row] for row in range(accepted))]
    generated: list[Generated] = []
    for token, row in zip(inputs[:final], rows, strict=False):
        batch._num_tokens[0] += 1
        reason = "length" if batch._num_tokens[0] >= batch.max_tokens[0] else None
        if batch._matchers[0].advance(token):
            reason = "stop"
        generated.append(Generated(batch.uids[0], token, row, reason))
        if reason is not None:
            break
    held = inputs[: len(generated)]
    for one in batch.prompt_cache:
        one.trim(len(inputs) - len(held))
    batch.tokens[0] += held
    if generated and generated[-1].finish_reason is not None:
        generated[-1] = _finished(batch, generated[-1])
        return Verified(len(held) - 1, generated, unsure=False)
    if unsure:
        batch._next_tokens = mx.array(inputs[accepted : accepted + 1], chosen.dtype)
        batch._next_logprobs = [rows[accepted]]
    else:
        batch._next_tokens = chosen[accepted : accepted + 1]
        batch._next_logprobs = [logprobs[accepted]]
    return Verified(accepted, generated, unsure)


def _finished(batch: Any, last: Generated) -> Generated:
    """Remove the request from the batch; return its last token with its cache."""
    cache, tokens = batch.extract_cache(0), batch.tokens[0]
    batch.filter([])
    return Generated(last.uid, last.token, last.logprobs, last.finish_reason, cache, tokens)
