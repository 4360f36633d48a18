"""Repair MLX's random state, which an error in a sampler leaves unusable.

mlx-lm's samplers are compiled functions that have the random state of the thread among their inputs
and outputs. While MLX traces such a function, the state is a placeholder. An error during tracing
leaves the placeholder in the state, and every later request that samples fails ("Attempting to eval
an array without a primitive") until the process ends.
"""

import secrets

import mlx.core as mx


def renew() -> None:
    """Reset this thread's random state to an unpredictable seed."""
    mx.random.seed(secrets.randbits(63))
