"""The prompts on disk that the sessions of a checkpoint use.

A prompt serves a session only if the session would compute the same numbers: with the same files,
settings, versions and device.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version

import mlx.core as mx

from reconciler.core.protocol import OpenSession
from reconciler.worker.disk.scope import Make, Scope
from reconciler.worker.disk.store import PromptDisk

SAME_NUMBERS = {"context_length", "eval_batch_size"}
"""Settings on which the values in a KV cache do not depend."""

DISK_VERSION = 1
"""Increased when prompts on disk become invalid although MLX and mlx-lm stay the same."""


class StoredPrompts:
    """Prompts on disk of one checkpoint. MLX thread only, except `flush`."""

    def __init__(self) -> None:
        self._disk: PromptDisk | None = None
        """None until a session has prompts on disk."""

    def of(self, command: OpenSession) -> Callable[[Make], Scope] | None:
        """The prompts on disk that a session can use; None if there are none."""
        if command.prompts is None:
            return None
        if self._disk is None:
            self._disk = PromptDisk(command.prompts)
        settings = asdict(command.config)
        for key in SAME_NUMBERS:
            del settings[key]
        scope = {
            "fingerprint": command.prompts.fingerprint,
            "settings": settings,
            "versions": [DISK_VERSION, version("mlx"), version("mlx-lm")],
            "device": str(mx.default_device()),
        }
        return partial(Scope, self._disk, scope)

    def flush(self, seconds: float) -> None:
        """Wait until all kept prompts are on disk, at most so long. Thread-safe."""
        if self._disk is not None:
            self._disk.flush(seconds)
