"""MLX's random state, which an error in a sampler leaves unusable.

mlx-lm's samplers are compiled functions that keep the random state of the thread among their inputs
and outputs. While MLX traces one, the state is a placeholder; an error in the middle of that leaves
the placeholder behind, and every later request that samples fails ("Attempting to eval an array
without a primitive") until the process ends.
"""

import secrets

import mlx.core as mx


def renew() -> None:
    """Give this thread a random state that nobody can foresee, whatever it had."""
    mx.random.seed(secrets.randbits(63))
