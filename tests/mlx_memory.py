"""MLX's memory, measured so that earlier tests and the scheduling of threads do not change it."""

import gc
from collections.abc import Callable

import mlx.core as mx
from mlx_lm.generate import generation_stream


def active() -> int:
    """Memory of MLX's arrays [bytes], after running computations and what they leave are gone."""
    mx.synchronize(generation_stream)
    mx.synchronize()
    gc.collect()
    mx.clear_cache()
    return mx.get_active_memory()


def peak(compute: Callable[[], object]) -> int:
    """Largest amount of memory that a computation adds [bytes].

    Above its memory limit, MLX waits for operations in progress before it allocates memory for the
    next ones. The limit is set to the least, since without it the peak depends on how far the
    thread that allocates is ahead of the one that computes.
    """
    before = active()
    limit = mx.set_memory_limit(1)
    mx.reset_peak_memory()
    try:
        compute()
    finally:
        mx.set_memory_limit(limit)
    return mx.get_peak_memory() - before
