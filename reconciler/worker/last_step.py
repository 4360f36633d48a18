"""Skip the useless forward pass in the last step of mlx-lm's batch.

A step of mlx-lm's `GenerationBatch` starts the forward pass for the next tokens before it returns
the current ones. If every request of the batch reaches its `max_tokens` with the current tokens,
that pass is wasted: it delays the responses and the next prompt by a whole step.
"""

# ruff: noqa: SLF001  mlx-lm has no public API to detect or skip the pass

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator


@contextmanager
def no_forward_after_the_end(generator: BatchGenerator) -> Iterator[None]:
    """Skip the forward pass of the generator's next step if all its requests end with that step.

    The caches then lack the last tokens.
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
