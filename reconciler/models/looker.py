"""Calls on paths that may hang, isolated so that one hanging path does not delay the others.

A call on a dead mount hangs in the kernel for as long as the mount is dead. One thread processes
the paths of a round in order. If a call is slow, another thread continues with the remaining paths;
if it times out, its thread is abandoned. While that call hangs, no further call is made on the same
path, so each path blocks at most one thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.models.files import as_text

T = TypeVar("T")

HANG_SECONDS = 5.0
"""Timeout of a call, from its start. A call takes milliseconds on a healthy path, and up to a
second on an overloaded machine."""

PATIENT_SECONDS = 10.0
"""Timeout of a call that a request waits for: a sleeping disk takes up to 10 s to spin up."""

TAKE_OVER_SECONDS = 0.1
"""Duration of a call after which another thread continues with the remaining paths."""


class NoAnswerError(LoadError):
    """`InvalidCheckpoint` for a path on which a call hangs."""

    def __init__(self, path: Path) -> None:
        words = f"{path} does not answer; check that its drive or server is connected"
        problem = Problem(Reason.INVALID_CHECKPOINT, as_text(words), permanent=False, param="model")
        super().__init__(problem)


@dataclass(eq=False)
class _Call:
    """A running call."""

    begun: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)


class _Round(Generic[T]):
    """One batch of paths, with the progress and results of their calls."""

    def __init__(self, function: Callable[[Path], T], paths: Iterable[Path]) -> None:
        self.function = function
        self.left = deque(dict.fromkeys(paths))
        self.size = len(self.left)
        self.begun: dict[Path, float] = {}
        """Start times of the running calls."""
        self.results: dict[Path, T | BaseException] = {}
        self.changed = threading.Condition()


class Looker:
    """Runs rounds of calls, and keeps track of hanging paths."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Path, _Call] = {}

    def each(
        self, function: Callable[[Path], T], paths: Sequence[Path], seconds: float = HANG_SECONDS
    ) -> list[T | BaseException]:
        """Call `function` on each path; return the results or exceptions in the same order.

        A call that times out gives `NoAnswerError`. Blocks for little more than `seconds` if only
        some paths hang.
        """
        if not paths:
            return []
        one = _Round(function, paths)
        with one.changed:
            self._start(one, seconds)
            while len(one.results) < one.size:
                one.changed.wait(TAKE_OVER_SECONDS)
                now = time.monotonic()
                for path, begun in one.begun.items():
                    if path not in one.results and now - begun >= seconds:
                        one.results[path] = NoAnswerError(path)
                slow = all(now - begun >= TAKE_OVER_SECONDS for begun in one.begun.values())
                if one.left and slow:
                    self._start(one, seconds)
            return [one.results[path] for path in paths]

    def _start(self, one: _Round[T], seconds: float) -> None:
        thread = threading.Thread(
            target=self._work, args=(one, seconds), name="look at models", daemon=True
        )
        thread.start()

    def _work(self, one: _Round[T], seconds: float) -> None:
        while True:
            with one.changed:
                if not one.left:
                    return
                path = one.left.popleft()
                one.begun[path] = time.monotonic()
            try:
                result: T | BaseException = self._call(one.function, path, seconds)
            except BaseException as error:  # noqa: BLE001  returned to the caller
                result = error
            with one.changed:
                del one.begun[path]
                one.results.setdefault(path, result)
                if len(one.results) == one.size:
                    one.changed.notify()

    def _call(self, function: Callable[[Path], T], path: Path, seconds: float) -> T:
        own = _Call()
        while (other := self._register(path, own)) is not own:
            if not other.done.wait(max(0.0, other.begun + seconds - time.monotonic())):
                raise NoAnswerError(path)
        try:
            return function(path)
        finally:
            with self._lock:
                del self._calls[path]
            own.done.set()

    def _register(self, path: Path, own: _Call) -> _Call:
        """Register `own` as the path's running call; return it, or the call that already runs."""
        with self._lock:
            return self._calls.setdefault(path, own)
