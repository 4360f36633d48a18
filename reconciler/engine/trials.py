"""Results of the trials of batching, so that a reload of the same files does not repeat them.

A worker tests once per checkpoint and settings whether a model computes the same in a batch as
alone. On a CPU, the test of a model of 0.8 billion parameters takes three times as long as its
first token. Only successes are remembered: a failure may have had another cause, such as a lack of
memory.
"""

from collections.abc import Iterable

CHECKPOINTS = 1000
"""Maximum number of remembered checkpoints; the oldest is forgotten first."""


class Trials:
    """Settings with which requests share a batch, by checkpoint and fingerprint of its files."""

    def __init__(self) -> None:
        self._passed: dict[str, tuple[str, set[str]]] = {}

    def passed(self, path: str, fingerprint: str) -> tuple[str, ...]:
        """Settings, as the worker named them, that passed with these files of a checkpoint."""
        at, settings = self._passed.get(path, (fingerprint, set()))
        return tuple(sorted(settings)) if at == fingerprint else ()

    def remember(self, path: str, fingerprint: str, settings: Iterable[str]) -> None:
        """Add settings that passed; results for other files of the checkpoint are dropped."""
        known = {*self.passed(path, fingerprint), *settings}
        self._passed.pop(path, None)
        self._passed[path] = (fingerprint, known)
        if len(self._passed) > CHECKPOINTS:
            del self._passed[next(iter(self._passed))]
