"""Calls on paths that may hang, so that none of them holds up the others.

A path on a dead mount hangs in the kernel for as long as the mount is dead. The paths of a round
are looked at one after the other by one thread. When a call takes long, another thread goes on
with the rest; when it takes too long, it is given up and left behind. While it still hangs, nobody
calls on that path again: there is at most one such thread for each path.
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
"""After which a call is given up, counted from its beginning. A healthy one takes milliseconds,
on a machine that is overloaded a second."""

PATIENT_SECONDS = 10.0
"""The same for a path that somebody waits for: a disk that sleeps takes up to ten to turn."""

TAKE_OVER_SECONDS = 0.1
"""After which another thread goes on with the other paths."""


class NoAnswerError(LoadError):
    """`InvalidCheckpoint` of a path on which a call hangs."""

    def __init__(self, path: Path) -> None:
        words = f"{path} does not answer; is it on a drive or a server that is gone?"
        problem = Problem(Reason.INVALID_CHECKPOINT, as_text(words), permanent=False, param="model")
        super().__init__(problem)


@dataclass(eq=False)
class _Call:
    """A call under way."""

    begun: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)


class _Round(Generic[T]):
    """Paths that are looked at together, and what came of it."""

    def __init__(self, function: Callable[[Path], T], paths: Iterable[Path]) -> None:
        self.function = function
        self.left = deque(dict.fromkeys(paths))
        self.size = len(self.left)
        self.begun: dict[Path, float] = {}
        """Under way."""
        self.results: dict[Path, T | BaseException] = {}
        self.changed = threading.Condition()


class Looker:
    """Runs rounds of calls, and remembers the paths that hang."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Path, _Call] = {}

    def each(
        self, function: Callable[[Path], T], paths: Sequence[Path], seconds: float = HANG_SECONDS
    ) -> list[T | BaseException]:
        """For each path what `function` returns or raises, `NoAnswerError` if it takes too long.

        Blocks for little more than `seconds` if all goes on but what hangs.
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
            except BaseException as error:  # noqa: BLE001  it is the caller's
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
        """The call on that path which is under way, `own` if there is no other."""
        with self._lock:
            return self._calls.setdefault(path, own)
