"""Writes KV caches to disk and reads them back, on threads of its own.

A cache is written as soon as it is kept: each token's rows are written once, because prompts share
the blocks of their common prefix. So when memory is needed, an instance is unloaded or the daemon
stops, hardly anything is left to write. The MLX thread only makes views of a cache's arrays and
checks whether the names of a prompt's blocks are in an index. Whatever fails, a prompt is then
computed as if it had never been written.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

from reconciler.core.prompt_store import PromptStore
from reconciler.worker.disk.directory import LEAST_FREE, Directory
from reconciler.worker.disk.fetches import Fetch, Watch
from reconciler.worker.disk.files import EndedError, size
from reconciler.worker.disk.layout import Stored
from reconciler.worker.disk.names import BLOCK
from reconciler.worker.disk.writes import Write

OPEN_SECONDS = 1.0
"""Time that the first session waits for the list of the files."""

PAUSE_SECONDS = 60.0
"""Time without writes after a failed one, such as on a full disk."""

MOST_WRITES = 64
"""Caches that wait to be written; more are not written."""


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
        self._watch = Watch()
        self._opened = threading.Event()
        for name, run in (("prompt writer", self._run_writes), ("prompt reader", self._run_reads)):
            threading.Thread(target=run, name=name, daemon=True).start()
        self._opened.wait(OPEN_SECONDS)

    @property
    def writes(self) -> bool:
        """False for a while after a failure, and while the disk does not keep up."""
        return not self._write_failures.recent and self._writes.qsize() < MOST_WRITES

    @property
    def reads(self) -> bool:
        """False while the disk does not respond."""
        return self._reading is None or not self._reading.is_over()

    def write(self, write: Write) -> None:
        """Queue a cache."""
        self._writes.put(write)

    def read(self, fetch: Fetch) -> None:
        """Queue a prompt."""
        self._watch.add(fetch)
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
            if not self._write_failures.recent:
                with self._write_failures.noted(), suppress(EndedError):
                    self._write(write)
            write.end()

    def _open(self) -> None:
        self.key = self.directory.open()

    def _write(self, write: Write) -> None:
        """Write the missing files of a cache. Raises `EndedError`."""
        if self.key is None or not self.directory.is_open():
            self._open()
        if self.key is None:
            return
        tokens, names = write.tokens, write.names(self.key)
        chain = names.blocks(tokens)
        rest = tokens[(len(chain) - 1) * BLOCK :]
        tail = names.tail(chain[-1], rest)
        wanted = {name: number for number, name in enumerate(chain[1:]) if write.has_rows}
        if len(rest) or not write.only_rows:
            wanted[tail] = len(chain) - 1
        self.directory.touch(list(wanted))
        block, last = size(*write.file(0, ends=False)), size(*write.file(len(chain) - 1, ends=True))
        sizes = [(name, last if name == tail else block) for name in wanted]
        with self.directory.writing(sizes) as writers:
            for writer in writers:
                writer.write(*write.file(wanted[writer.name], ends=writer.name == tail))
        self.directory.touch(list(wanted))

    def _run_reads(self) -> None:
        while True:
            fetch = self._fetches.get()
            if fetch.is_over():
                continue
            self._reading = fetch
            stored = None
            with self._read_failures.noted(), suppress(EndedError):
                stored = self._read(fetch)
            self._reading = None
            fetch.end(stored)

    def _read(self, fetch: Fetch) -> Stored | None:
        """Read the longest prefix whose files are all right. Raises `EndedError`."""
        while (found := fetch.find()) is not None:
            fetch.begin(found.tokens)
            for name in found.files:
                fetch.progress()
                try:
                    with self.directory.reader(name) as reader:
                        fetch.add(reader)
                except FileNotFoundError:  # another worker deleted it
                    self.directory.index.discard(name)
                    break
                except OSError as error:
                    self.directory.index.discard(name)
                    self._read_failures.note(error)
                    break
                except (EndedError, MemoryError):
                    raise
                except Exception:  # noqa: BLE001  arrays of other shapes raise anything
                    self.directory.delete(name)
                    print(f"a stored prompt was damaged and is deleted: {name}", file=sys.stderr)
                    break
            else:
                self.directory.touch(found.files)
                return fetch.result()
        return None


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
