"""The daemon's side of prompts on disk: their location, size and removal.

Workers write and read the files, and keep the limit (`worker/disk`). Removing files here needs no
lock: for a worker a missing file is one that was evicted. Only the count of the size does, which is
made afresh after a removal.
"""

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from reconciler.core.facts import Checkpoint
from reconciler.core.prompt_store import (
    CHECKPOINT,
    COUNT_BYTES,
    DIRECTORY,
    DIRECTORY_LENGTH,
    KEY,
    LOCK,
    SUFFIX,
    TAG,
    TAG_TEXT,
    PromptStore,
    count_text,
)
from reconciler.host.kinds import check_regular, read_at_most

PATH_BYTES = 65536
"""Maximum size of a file that holds a path."""

LOCK_SECONDS = 2.0
"""Maximum wait for the lock. A worker holds it for the time of a write."""

POLL_SECONDS = 0.02


@dataclass(frozen=True)
class PromptDisk:
    """The directory of all prompts. Its methods may block, except `store`."""

    root: Path
    most_bytes: int
    """Maximum size of all prompts; 0: none are kept."""

    def store(self, checkpoint: Checkpoint, fingerprint: str) -> PromptStore | None:
        """Location of the prompts of a checkpoint; None if none are kept.

        `fingerprint`: state of the checkpoint's files when its weights were read.
        """
        if not self.most_bytes:
            return None
        path, adapter = checkpoint.path, checkpoint.adapter
        state = fingerprint if adapter is None else f"{fingerprint}+{adapter.fingerprint}"
        directory = sha256(path.encode()).hexdigest()[:DIRECTORY_LENGTH]
        return PromptStore(str(self.root), directory, path, state, self.most_bytes)

    def size(self) -> int:
        """Size of all prompts, as last counted by a worker [bytes]."""
        with suppress(OSError, ValueError):
            return int(read_at_most(self.root / LOCK, COUNT_BYTES)[:COUNT_BYTES])
        return 0

    def remove(self, folder: Path) -> None:
        """Remove the prompts of all checkpoints in a folder. Raises OSError, after the others.

        Raises `TimeoutError` if they are removed and a worker does not release the lock, so that
        the size is wrong until a worker counts.
        """
        found, problem = self._remove(lambda checkpoint: checkpoint.is_relative_to(folder))
        if found:
            self._count()
        if problem is not None:
            raise problem

    def clear(self) -> None:
        """Remove all prompts, and the key of their names. Raises OSError, after the others.

        A directory that is not marked as one of prompts is left alone.
        """
        if not self._is_marked():
            return
        try:
            _, problem = self._remove(lambda _: True)
        finally:
            (self.root / KEY).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                os.truncate(self.root / LOCK, 0)  # the next worker counts
        if problem is not None:
            raise problem

    def _is_marked(self) -> bool:
        """True if workers have made the directory one of prompts."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return read_at_most(self.root / TAG, len(TAG_TEXT)) == TAG_TEXT
        return False

    def _remove(self, chosen: Callable[[Path], bool]) -> tuple[bool, OSError | None]:
        """Remove the prompts of the chosen checkpoints: True if there were any, the last error."""
        if not self._is_marked():
            return False, None
        problem: OSError | None = None
        found = False
        for directory in self._directories():
            try:
                text = read_at_most(directory / CHECKPOINT, PATH_BYTES)
                if chosen(Path(os.fsdecode(text))):
                    found = True
                    shutil.rmtree(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                problem = error
        return found, problem

    def _count(self) -> None:
        """Count the size of all prompts, as workers do. Raises OSError or `TimeoutError`."""
        flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(self.root / LOCK, flags, 0o600)
        try:
            check_regular(os.fstat(handle))
            _lock(handle)
            size = sum(map(_size, self._directories()))
            os.pwrite(handle, count_text(size), 0)
        finally:
            os.close(handle)

    def _directories(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            for path in sorted(self.root.iterdir()):
                if DIRECTORY.fullmatch(path.name) and not path.is_symlink():
                    yield path


def _lock(handle: int) -> None:
    """Lock an open file until it is closed. Raises `TimeoutError` after `LOCK_SECONDS`."""
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise TimeoutError("a worker does not release the lock of the prompts") from None
            time.sleep(POLL_SECONDS)
        else:
            return


def _size(directory: Path) -> int:
    """Size of the prompts of a checkpoint [bytes]; 0 if it is gone or no worker made it."""
    size = 0
    with suppress(FileNotFoundError, NotADirectoryError):
        (directory / CHECKPOINT).stat()
        for path in directory.iterdir():
            with suppress(FileNotFoundError):
                found = path.stat(follow_symlinks=False)
                if path.suffix == SUFFIX and not stat.S_ISDIR(found.st_mode):
                    size += found.st_size
    return size
