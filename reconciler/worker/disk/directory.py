"""The directory of prompts: its files, its size limit, and what is in it.

    ROOT/key               secret of all names
    ROOT/lock              locked by the worker that writes or deletes; holds the total size
    ROOT/CHECKPOINT/       a directory for each checkpoint
        checkpoint         its path
        NAME.safetensors   blocks and tails
        .new               a file that is being written

The workers enforce the limit themselves, under the lock, before they write: only so is it kept at
any time, with several daemons and after a crash. Files that have not been used for the longest time
are deleted first, whichever checkpoint they belong to. The size is counted in the lock file instead
of scanning all files at each write; it is counted afresh when a worker opens the directory and when
it seems to be used up, so that what a killed worker or a user did to the files does not last.

Every method raises OSError. Not for the MLX thread: a disk may hang.
"""

import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.prompt_store import (
    CHECKPOINT,
    COUNT_BYTES,
    DIRECTORY,
    KEY,
    LOCK,
    SUFFIX,
    TAG,
    TAG_TEXT,
    PromptStore,
    count_text,
)
from reconciler.worker.disk.files import Part, Reader, read_small, write
from reconciler.worker.disk.names import KEY_BYTES, split_tail

NEW = ".new"
"""File that is being written. Only one worker writes at a time."""

LEAST_FREE = 2**30
"""Free space on the disk that is left to others [bytes]."""

SPARE = 16
"""If files have to be deleted, one part in so many of the limit becomes free. Otherwise each write
would list all files: 100,000 take a second of CPU time."""

CLOCK_NS = 3600 * 10**9
"""A file that was used later than this from now counts as never used: the clock was set back, and
new files would be deleted before it [ns]."""

OTHERS_WRITE = 0o022


@dataclass
class Index:
    """Names of the files of a checkpoint. Thread-safe."""

    names: set[str] = field(default_factory=set)
    tails: dict[str, set[str]] = field(default_factory=dict)
    """Tails by their block."""

    def add(self, name: str) -> None:
        """Add a file."""
        self.names.add(name)
        if (tail := split_tail(name)) is not None:
            self.tails.setdefault(tail[0], set()).add(name)

    def discard(self, name: str) -> None:
        """Remove a file, if it is there."""
        self.names.discard(name)
        if (tail := split_tail(name)) is not None:
            self.tails.get(tail[0], set()).discard(name)


class Directory:
    """The prompts of one checkpoint."""

    def __init__(self, store: PromptStore, least_free: int = LEAST_FREE) -> None:
        self._store, self._least_free = store, least_free
        self._root = Path(store.root)
        self._own = self._root / store.directory
        self.index = Index()

    def open(self) -> bytes:
        """Create what is missing, list the files and enforce the limit; return the key."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self._root.stat()
        if found.st_uid != os.geteuid() or found.st_mode & OTHERS_WRITE:
            raise PermissionError(0, "other users may write to it", str(self._root))
        new = all(_is_ours(path) for path in self._root.iterdir())
        # Afterwards: another worker may mark it meanwhile, and writes other files then.
        if not new and not _holds(self._root / TAG, TAG_TEXT):
            words = "it holds other files; name an empty directory with --prompt-cache"
            raise PermissionError(0, words, str(self._root))
        self._own.mkdir(mode=0o700, exist_ok=True)
        with self._locked() as lock:
            _write_text(self._root / TAG, TAG_TEXT)  # first: `_is_ours` knows no other files
            key = self._read_key()
            _write_text(self._own / CHECKPOINT, self._store.checkpoint.encode())
            self._make_room(lock, 0, count=True)
        self.index = Index()
        for path in self._own.iterdir():
            if path.suffix == SUFFIX:
                self.index.add(path.stem)
        return key

    def is_open(self) -> bool:
        """True unless the directory was deleted since `open`."""
        return (self._root / KEY).exists() and self._own.is_dir()

    def reader(self, name: str) -> Reader:
        """Open a file for reading. Raises `DamagedError` as well."""
        return Reader(self._path(name), name)

    @contextmanager
    def writing(self, files: Sequence[tuple[str, int]]) -> Iterator[list["Writer"]]:
        """Make room for those of `files` that are missing; yields a writer for each of them.

        `files`: names and sizes [bytes]. There are no writers if there is never room for all.
        """
        missing = []
        for name, size in files:
            if self._path(name).exists():
                self.index.add(name)
            else:
                missing.append((name, size))
        if not missing:
            yield []
            return
        with self._locked() as lock:
            fits = self._make_room(lock, sum(size for _, size in missing))
            yield [Writer(self, lock, name) for name, _ in missing] if fits else []

    def write_one(self, lock: int, name: str, parts: Sequence[Part], state: str) -> None:
        """Write a file under its temporary name, then give it its own. Raises `EndedError`."""
        new = self._own / NEW
        new.unlink(missing_ok=True)
        try:
            size = write(new, name, parts, state)
            _set_count(lock, (_get_count(lock) or 0) + size)
            new.rename(self._path(name))
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise
        self.index.add(name)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        self.index.discard(name)
        with suppress(FileNotFoundError):
            self._path(name).unlink()

    def touch(self, names: Sequence[str]) -> None:
        """Record the use of files, in the order of their tokens.

        The first ones count as used last: without them the others are useless.
        """
        now = time.time_ns()
        for place, name in enumerate(names):
            with suppress(FileNotFoundError):
                os.utime(self._path(name), ns=(now - 1000 * place, now - 1000 * place))

    def _path(self, name: str) -> Path:
        return self._own / f"{name}{SUFFIX}"

    def _read_key(self) -> bytes:
        with suppress(FileNotFoundError):
            key = read_small(self._root / KEY, KEY_BYTES)
            if len(key) == KEY_BYTES:
                return key
        key = secrets.token_bytes(KEY_BYTES)
        _write_text(self._root / KEY, key)
        return key

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Wait for the lock; yields its file's descriptor."""
        lock = os.open(self._root / LOCK, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock
        finally:
            os.close(lock)

    def _make_room(self, lock: int, size: int, *, count: bool = False) -> bool:
        """Delete files until `size` bytes more are allowed; False if they never are.

        `count`: True if the files are counted afresh in any case.
        """
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize - self._least_free
        if size > self._store.most_bytes:
            return False
        used = _get_count(lock)
        if count or used is None or used + size > self._store.most_bytes or size > free:
            files = sorted(self._files())
            used = sum(size for _, size, _ in files)
            room, most = size, self._store.most_bytes
            if used + size > most or size > free:
                room = min(most, size + most // SPARE)
            for _, freed, path in files:
                if used + room <= most and room <= free:
                    break
                path.unlink(missing_ok=True)
                used, free = used - freed, free + freed
                if path.parent == self._own:
                    self.index.discard(path.stem)
            _set_count(lock, used)
        if size > free:
            raise OSError(28, "less than 1 GiB would be free on the disk", str(self._root))
        return True

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """Time of use, size and path of all prompts; deletes unfinished files."""
        latest = time.time_ns() + CLOCK_NS
        for directory in self._directories():
            for path in directory.iterdir():
                with suppress(FileNotFoundError):
                    found = path.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        continue
                    if path.name == NEW:
                        path.unlink()
                    elif path.suffix == SUFFIX:
                        used = found.st_mtime_ns
                        yield used if used < latest else 0, found.st_size, path

    def _directories(self) -> Iterator[Path]:
        """The directories of all checkpoints; one that no worker made has no `CHECKPOINT`."""
        for path in self._root.iterdir():
            ours = DIRECTORY.fullmatch(path.name) and not path.is_symlink()
            if ours and (path / CHECKPOINT).exists():
                yield path


@dataclass(frozen=True)
class Writer:
    """Permission to write one file."""

    directory: Directory
    lock: int
    name: str

    def write(self, parts: Sequence[Part], state: str) -> None:
        """Write the file. Raises `EndedError`."""
        self.directory.write_one(self.lock, self.name, parts, state)


def _is_ours(path: Path) -> bool:
    """True if a worker that has not written `TAG` yet may have made this file or directory."""
    if DIRECTORY.fullmatch(path.name):
        return path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if path.name == LOCK:
        return path.stat().st_size == 0
    return path.name == f"{TAG}{NEW}"


def _holds(path: Path, text: bytes) -> bool:
    """True if there is a file with exactly this content."""
    with suppress(FileNotFoundError):
        return read_small(path, len(text)) == text
    return False


def _get_count(lock: int) -> int | None:
    """The size of all prompts [bytes]; None if the lock file does not hold it."""
    text = os.pread(lock, COUNT_BYTES, 0)
    return int(text) if text.isdigit() else None


def _set_count(lock: int, count: int) -> None:
    os.pwrite(lock, count_text(count), 0)


def _write_text(path: Path, text: bytes) -> None:
    """Write a small private file, unless it holds this already."""
    if _holds(path, text):
        return
    new = path.with_name(f"{path.name}{NEW}")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    new.rename(path)
