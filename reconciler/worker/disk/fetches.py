"""Prompts that are being read from disk: what was read so far, and the time limit.

A disk that hangs holds nothing of a prompt that nobody waits for any more. One thread watches the
time of all prompts: the thread that reads may hang.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from reconciler.worker.disk import layout
from reconciler.worker.disk.files import Array, DamagedError, EndedError, Entry, Reader
from reconciler.worker.disk.names import BLOCK
from reconciler.worker.disk.writes import ROWS

READ_SECONDS = 5.0
"""Time to read one file of a prompt; then the prompt is computed."""

Done = Callable[[layout.Stored | None], None]
"""Called on any thread with what was read of a prompt; None: nothing."""


@dataclass(frozen=True)
class Found:
    """A stored prefix."""

    tokens: int
    files: list[str]
    """In the order of their tokens."""


class Fetch:
    """A prompt that is being read. Thread-safe."""

    def __init__(self, find: Callable[[], Found | None], done: Done) -> None:
        """`find` returns the longest stored prefix of the prompt; `done` is called once."""
        self.find = find
        self._done: Done | None = done
        self._collected: _Collected | None = None
        self._lock = threading.Lock()
        self._since = time.monotonic()

    def is_over(self) -> bool:
        """True if nobody waits for it any more."""
        return self._done is None

    @property
    def left(self) -> float:
        """Time left for the next file [s]."""
        return self._since + READ_SECONDS - time.monotonic()

    def progress(self) -> None:
        """Start the time for the next file."""
        self._since = time.monotonic()

    def begin(self, tokens: int) -> None:
        """Begin to collect a prefix of so many tokens. Raises `EndedError`."""
        with self._lock:
            if self._done is None:
                raise EndedError
            self._collected = _Collected(tokens)

    def add(self, reader: Reader) -> None:
        """Read the next file of the prefix. Raises OSError, `DamagedError` or `EndedError`."""
        names = set()
        for entry in reader.entries:
            # What was collected is not held while the disk is waited for.
            self._put(entry, reader.read(entry))
            names.add(entry.name)
        reader.check()
        self._here().check(names, reader.state)

    def _put(self, entry: Entry, array: Array) -> None:
        self._here().put(entry, array)

    def _here(self) -> "_Collected":
        if (collected := self._collected) is None:
            raise EndedError
        return collected

    def result(self) -> layout.Stored:
        """Arrays of MLX that were collected. Raises `EndedError`."""
        return self._here().to_mlx()

    def end(self, stored: layout.Stored | None = None) -> None:
        """Hand over what was read; only the first call counts."""
        if (done := self._leave()) is not None:
            done(stored)

    def cancel(self) -> None:
        """End it without a call of `done`."""
        self._leave()

    def _leave(self) -> Done | None:
        with self._lock:
            done, self._done, self._collected = self._done, None, None
        return done


class Watch:
    """Ends prompts whose next file takes too long, on a thread of its own."""

    def __init__(self) -> None:
        self._fetches: list[Fetch] = []
        self._added = threading.Condition()
        threading.Thread(target=self._run, name="prompt watch", daemon=True).start()

    def add(self, fetch: Fetch) -> None:
        """Watch a prompt from now on. Thread-safe."""
        with self._added:
            self._fetches.append(fetch)
            self._added.notify()

    def _run(self) -> None:
        while True:
            with self._added:
                self._fetches = [one for one in self._fetches if not one.is_over()]
                late = [one for one in self._fetches if one.left <= 0]
                if not late:
                    self._added.wait(min((one.left for one in self._fetches), default=None))
            for fetch in late:
                fetch.end()


class _Collected:
    """Arrays read from the files of a prefix."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._blocks = 0
        self._rows: dict[str, tuple[str, Array]] = {}
        self._whole: dict[str, tuple[str, Array]] = {}
        self._state = "{}"

    def put(self, entry: Entry, array: Array) -> None:
        """Add an array of the next file. Raises `DamagedError`."""
        if entry.name.startswith(ROWS):
            self._put_rows(entry, array)
        else:
            self._whole[entry.name] = entry.kind, array

    def check(self, names: set[str], state: str) -> None:
        """Check the names of all arrays of a file. Raises `DamagedError`."""
        if {name for name in names if name.startswith(ROWS)} != self._rows.keys():
            raise DamagedError
        self._state = state
        self._blocks += 1

    def _put_rows(self, entry: Entry, array: Array) -> None:
        """Put a block's rows in their place among those of all tokens."""
        shape = (*array.shape[:-2], self._tokens, *array.shape[-1:])
        if not self._blocks:
            self._rows[entry.name] = entry.kind, np.empty(shape, array.dtype)
        kind, rows = self._rows.get(entry.name, ("", array))
        begin = self._blocks * BLOCK
        count = min(BLOCK, self._tokens - begin)
        if kind != entry.kind or rows.shape != shape or array.shape[-2] != count:
            raise DamagedError
        rows[..., begin : begin + count, :] = array

    def to_mlx(self) -> layout.Stored:
        """Copy all arrays to MLX, one after the other, so that only one exists twice.

        Computes nothing, so any thread may call it.
        """
        rows = {name.removeprefix(ROWS): one for name, one in _to_mlx(self._rows)}
        return layout.Stored(self._tokens, rows, dict(_to_mlx(self._whole)), self._state)


def _to_mlx(arrays: dict[str, tuple[str, Array]]) -> Iterator[tuple[str, tuple[str, Any]]]:
    while arrays:
        name, (kind, array) = arrays.popitem()
        yield name, (kind, mx.array(array))
