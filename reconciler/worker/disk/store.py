"""Writes KV caches to disk and reads them back, on two threads of its own.

A cache is written as soon as it is kept: each token's rows are written once, because prompts share
the blocks of their common prefix. So when memory is needed, an instance is unloaded or the daemon
stops, hardly anything is left to write. The MLX thread only makes views of a cache's arrays and
checks whether the names of a prompt's blocks are in an index. Whatever fails, a prompt is then
computed as if it had never been written.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import mlx.core as mx
import numpy as np

from reconciler.core.prompt_store import PromptStore
from reconciler.worker.disk import layout
from reconciler.worker.disk.directory import LEAST_FREE, Directory
from reconciler.worker.disk.files import Array, DamagedError, Entry, Named, Reader, size
from reconciler.worker.disk.names import BLOCK, Names, Tokens, split_tail

ROWS = "rows "
"""Prefix of the names of arrays with a row per token."""

LEAST = 256
"""Tokens that a file must save to be read or written: fewer are computed as quickly."""

READ_SECONDS = 5.0
"""Time to read one file of a prompt; then the prompt is computed."""

OPEN_SECONDS = 1.0
"""Time that the first session waits for the list of the files."""

PAUSE_SECONDS = 60.0
"""Time without writes after a failed one, such as on a full disk."""


class Write:
    """A cache to be written."""

    def __init__(self, names: "Scope", tokens: Tokens, parts: layout.Parts) -> None:
        self.scope, self.tokens = names, tokens
        self.parts: layout.Parts | None = parts
        """None once it is written or cancelled."""

    @property
    def over(self) -> bool:
        """True if it holds no memory of the cache any more."""
        return self.parts is None

    def end(self) -> None:
        """Release the cache's memory, whether it is written or not. Thread-safe.

        A write in progress ends with the file that it is writing.
        """
        self.parts = None


class Fetch:
    """A prompt that is being read."""

    def __init__(
        self, scope: "Scope", tokens: Tokens, known: int, done: Callable[[Any], None]
    ) -> None:
        """`known`: tokens that need not be read; `done` is called once, with a `Stored` or None."""
        self.scope, self.tokens, self.known = scope, tokens, known
        self._done: Callable[[Any], None] | None = done
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._watch(READ_SECONDS)

    def is_over(self) -> bool:
        """True if nobody waits for it any more."""
        return self._done is None

    def progress(self) -> None:
        """Start the time for the next file."""
        self._since = time.monotonic()

    def _check(self) -> None:
        """End it if a file takes too long, else check again later."""
        left = self._since + READ_SECONDS - time.monotonic()
        if left <= 0:
            self.end()
        elif not self.is_over():
            self._watch(left)

    def _watch(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._check)
        self._timer.daemon = True
        self._timer.start()

    def end(self, stored: layout.Stored | None = None) -> None:
        """Hand over what was read; only the first call counts. Thread-safe."""
        with self._lock:
            done, self._done = self._done, None
        if done is not None:
            self._timer.cancel()
            done(stored)

    def cancel(self) -> None:
        """End it without a call of `done`. Thread-safe."""
        with self._lock:
            self._done = None
        self._timer.cancel()


Make = Callable[[], Sequence[Any]]
"""Returns an empty cache of a model."""


class Scope:
    """The prompts of one scope: a model with its adapter and the settings that change numbers."""

    def __init__(self, disk: "PromptDisk", scope: Mapping[str, Any], make: Make) -> None:
        template = make()
        self.make = make
        self.only_rows, self.has_rows = layout.only_rows(template), layout.has_rows(template)
        self._disk, self._supported = disk, layout.supported(template)
        self._kinds = layout.kinds(template)
        self._scope = {**scope, "kinds": self._kinds}
        self._names: tuple[bytes, Names] | None = None

    def save(self, tokens: Tokens, cache: Sequence[Any]) -> Write | None:
        """Write a cache that holds these tokens, later. Raises nothing. MLX thread only."""
        if len(tokens) < LEAST or not self._supported or not self._disk.writes:
            return None
        try:
            if layout.kinds(cache) != self._kinds:
                return None
            write = Write(self, tokens, layout.split(cache, len(tokens)))
        except Exception:  # noqa: BLE001  the requests do not depend on it
            return None
        self._disk.write(write)
        return write

    def fetch(self, tokens: Sequence[int], known: int, done: Callable[[Any], None]) -> Fetch | None:
        """Read the longest prefix of a prompt, if it saves enough tokens. MLX thread only.

        `done` is called on another thread, with a `Stored`, or None if nothing could be read.
        """
        if not self._supported or len(tokens) - known <= LEAST:
            return None
        wanted = np.asarray(tokens[:-1], dtype=np.int64)
        if self.find(wanted, known) is None or not self._disk.reads:
            return None
        fetch = Fetch(self, wanted, known, done)
        self._disk.read(fetch)
        return fetch

    def names(self, key: bytes) -> Names:
        """The names of files under this key."""
        if self._names is None or self._names[0] != key:
            self._names = key, Names(key, self._scope)
        return self._names[1]

    def find(self, tokens: Tokens, known: int) -> "Found | None":
        """Find the longest stored prefix, if it is long enough."""
        key, index = self._disk.key, self._disk.directory.index
        if key is None:
            return None
        names = self.names(key)
        chain = names.blocks(tokens)
        here = 0
        while here + 1 < len(chain) and (chain[here + 1] in index.names or not self.has_rows):
            here += 1
        for blocks in range(here, -1, -1):
            rest = tokens[blocks * BLOCK :][: BLOCK - 1]
            tails = sorted(
                ((split_tail(name) or ("", 0))[1], name)
                for name in index.tails.get(chain[blocks], set()).copy()
            )
            for count, name in reversed(tails):
                if count <= len(rest) and names.tail(chain[blocks], rest[:count]) == name:
                    return self._enough(chain[: blocks + 1], name, count, known)
            if self.only_rows and blocks:
                return self._enough(chain[: blocks + 1], None, 0, known)
        return None

    def _enough(self, chain: list[str], tail: str | None, count: int, known: int) -> "Found | None":
        """The files of a prefix whose tail has `count` tokens, if it is long enough."""
        tokens = (len(chain) - 1) * BLOCK + count
        blocks = chain[1:] if self.has_rows else []
        return Found(tokens, [*blocks, *filter(None, [tail])]) if tokens - known >= LEAST else None


@dataclass(frozen=True)
class Found:
    """A stored prefix."""

    tokens: int
    files: list[str]
    """In the order of their tokens."""


class PromptDisk:
    """The prompts of a worker's checkpoint."""

    def __init__(self, store: PromptStore, least_free: int = LEAST_FREE) -> None:
        self.store = store
        self.directory = Directory(store, least_free)
        self.key: bytes | None = None
        self._write_failures = _Failures("prompts cannot be written to disk")
        self._read_failures = _Failures("prompts cannot be read from disk")
        self._writes: SimpleQueue[Write | threading.Event] = SimpleQueue()
        self._fetches: SimpleQueue[Fetch] = SimpleQueue()
        self._reading: Fetch | None = None
        self._opened = threading.Event()
        for name, run in (("prompt writer", self._run_writes), ("prompt reader", self._run_reads)):
            threading.Thread(target=run, name=name, daemon=True).start()
        self._opened.wait(OPEN_SECONDS)

    @property
    def writes(self) -> bool:
        """False after a failure, for a while."""
        return not self._write_failures.recent

    @property
    def reads(self) -> bool:
        """False while the disk does not respond."""
        return self._reading is None or not self._reading.is_over()

    def write(self, write: Write) -> None:
        """Queue a cache."""
        self._writes.put(write)

    def read(self, fetch: Fetch) -> None:
        """Queue a prompt."""
        self._fetches.put(fetch)

    def flush(self, seconds: float) -> None:
        """Wait until all queued caches are written, at most so long. Thread-safe."""
        written = threading.Event()
        self._writes.put(written)
        written.wait(max(0.0, seconds))

    def _run_writes(self) -> None:
        with self._write_failures.noted():
            self._open()
        self._opened.set()
        while True:
            write = self._writes.get()
            if isinstance(write, threading.Event):
                write.set()
                continue
            if self.writes:
                with self._write_failures.noted():
                    self._write(write)
            write.end()

    def _open(self) -> None:
        self.key = self.directory.open()

    def _write(self, write: Write) -> None:
        """Write the missing files of a cache."""
        if self.key is None or not self.directory.is_open():
            self._open()
        if self.key is None or (parts := write.parts) is None:
            return
        names = write.scope.names(self.key)
        chain = names.blocks(write.tokens)
        rest = write.tokens[(len(chain) - 1) * BLOCK :]
        tail = names.tail(chain[-1], rest)
        wanted = {name: number for number, name in enumerate(chain[1:]) if write.scope.has_rows}
        if len(rest) or not write.scope.only_rows:
            wanted[tail] = len(chain) - 1
        self.directory.touch(list(wanted))
        block = size(*_file(parts, 0, ends=False))
        last = size(*_file(parts, len(chain) - 1, ends=True))
        sizes = [(name, last if name == tail else block) for name in wanted]
        del parts  # so that `write.end` releases it
        with self.directory.writing(sizes) as writers:
            for writer in writers:
                now = write.parts
                if now is None:
                    return
                writer.write(*_file(now, wanted[writer.name], ends=writer.name == tail))
                del now
        self.directory.touch(list(wanted))

    def _run_reads(self) -> None:
        while True:
            fetch = self._fetches.get()
            if fetch.is_over():
                continue
            self._reading = fetch
            stored = None
            with self._read_failures.noted():
                stored = self._read(fetch)
            self._reading = None
            fetch.end(stored)

    def _read(self, fetch: Fetch) -> layout.Stored | None:
        """Read the longest prefix whose files are all right."""
        while (
            not fetch.is_over()
            and (found := fetch.scope.find(fetch.tokens, fetch.known)) is not None
        ):
            collected = _Collected(found.tokens)
            for name in found.files:
                if fetch.is_over():
                    return None
                fetch.progress()
                try:
                    with self.directory.reader(name) as reader:
                        collected.add(reader)
                except FileNotFoundError:  # another worker deleted it
                    self.directory.index.discard(name)
                    break
                except OSError as error:
                    self.directory.index.discard(name)
                    self._read_failures.note(error)
                    break
                except Exception:  # noqa: BLE001  arrays of other shapes raise anything
                    self.directory.delete(name)
                    print(f"a stored prompt was damaged and is deleted: {name}", file=sys.stderr)
                    break
            else:
                self.directory.touch(found.files)
                return collected.to_mlx()
        return None


def _file(parts: layout.Parts, block: int, *, ends: bool) -> tuple[Named, str]:
    """Arrays and state of a block's file, or of a tail's."""
    begin = block * BLOCK
    rows = slice(begin, None if ends else begin + BLOCK)
    arrays = [
        (f"{ROWS}{name}", kind, array[..., rows, :]) for name, (kind, array) in parts.rows.items()
    ]
    if ends:
        arrays += [(name, kind, array) for name, (kind, array) in parts.whole.items()]
    return arrays, parts.state if ends else "{}"


class _Collected:
    """Arrays read from the files of a prefix."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._blocks = 0
        self._rows: dict[str, tuple[str, Array]] = {}
        self._whole: dict[str, tuple[str, Array]] = {}
        self._state = "{}"

    def add(self, reader: Reader) -> None:
        """Read the next file. Raises OSError or `DamagedError`."""
        names = set()
        for entry in reader.entries:
            array = reader.read(entry)
            if entry.name.startswith(ROWS):
                names.add(entry.name)
                self._put(entry, array)
            else:
                self._whole[entry.name] = entry.kind, array
        reader.check()
        if names != self._rows.keys():
            raise DamagedError
        self._state = reader.state
        self._blocks += 1

    def _put(self, entry: Entry, array: Array) -> None:
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


class _Failures:
    """Failures of one kind; the first of successive ones is logged."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since: float | None = None
        """Time of the last failure; None if nothing has failed since the last success."""

    @property
    def recent(self) -> bool:
        """True if the last try failed a short while ago."""
        return self._since is not None and time.monotonic() < self._since + PAUSE_SECONDS

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note whether the block fails. Raises nothing."""
        before = self._since
        try:
            yield
        except Exception as error:  # noqa: BLE001  a prompt is computed instead
            self.note(error)
        else:
            if self._since == before:
                self._since = None

    def note(self, error: Exception) -> None:
        """Note a failure."""
        # Only an OSError's words are logged: it names files, which are hashes.
        words = str(error) if isinstance(error, OSError) else type(error).__name__
        if self._since is None:
            print(f"{self._what}: {words}", file=sys.stderr)
        self._since = time.monotonic()
