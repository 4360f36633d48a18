"""The limit of MLX's memory in a worker, set before each step.

At its limit MLX releases cached buffers, and waits for running work before it starts more. On a
GPU, MLX would cache buffers up to the memory of the machine, regardless of other workers: on an
H200 it took up to 2.9 times the budgeted memory, and with a limit no more than a step needs. The
CPU backend caches no buffers here, but allocates memory for work that has not run yet: while a long
prompt is prefilled, for the scores of many tiles of attention at once. On the CPU there is no limit
for short prompts and for generation: they have little memory to save, and waiting slows them down.
"""

import sys
from collections.abc import Iterable
from typing import Protocol

import mlx.core as mx

from reconciler.worker import overrides
from reconciler.worker.kv_budget import KVBudget


class Holder(Protocol):
    """A session, as the limit sees it."""

    kv_budget: KVBudget

    @property
    def busy(self) -> bool:
        """True if a step would do something."""

    @property
    def kept_bytes(self) -> int:
        """Size of the prompt cache [bytes]."""

    @property
    def reads_in_tiles(self) -> bool:
        """True if a prompt with more than one attention tile left is being prefilled."""


class MemoryLimit:
    """MLX's memory limit. MLX thread only."""

    def __init__(self) -> None:
        self._limit = 0
        """The limit that was set last [bytes]; 0 before that."""

    def set(self, session: Holder, sessions: Iterable[Holder], shared: int) -> None:
        """Set the limit for a step of `session`, one of `sessions`.

        `shared`: memory for what sessions share [bytes].
        """
        if overrides.on_gpu():
            limit = min(shared + _held(sessions), sys.maxsize)
        else:
            limit = 1 if session.reads_in_tiles else sys.maxsize
        if limit != self._limit:
            mx.set_memory_limit(limit)
            self._limit = limit


def _held(sessions: Iterable[Holder]) -> int:
    """Memory for the arrays of sessions [bytes].

    A busy session counts with its lease; an idle one with its reservation, or with its prompt cache
    if that is larger.
    """
    held = 0
    for session in sessions:
        budget = session.kv_budget
        held += budget.everything if session.busy else max(budget.reserved, session.kept_bytes)
    return held
