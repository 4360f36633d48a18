"""The last step of mlx-lm's batch, without the forward pass that nobody needs.

A step of mlx-lm's `GenerationBatch` begins the forward pass for the next tokens before it returns
the present ones. If every request of the batch has its `max_tokens` with the present ones, that
pass is for nothing: it delays the answers and the next prompt by a whole step.
"""

# ruff: noqa: SLF001  mlx-lm has no public way to know or to skip it

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator


@contextmanager
def no_forward_after_the_end(generator: BatchGenerator) -> Iterator[None]:
    """Let the generator's next step only return its tokens if all its requests end with them.

    The caches are then left without the last tokens.
    """
    batch: Any = generator._generation_batch
    counts = zip(batch._num_tokens, batch.max_tokens, strict=True)
    if not batch.uids or any(count + 1 < most for count, most in counts):
        yield
        return

    def step() -> tuple[list[int], list[Any]]:
        mx.eval(batch._next_tokens, batch._next_logprobs)
        return batch._next_tokens.tolist(), batch._next_logprobs

    batch._step = step
    try:
        yield
    finally:
        del batch._step
