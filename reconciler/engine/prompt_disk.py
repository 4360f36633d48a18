"""The daemon's side of prompts on disk: their location, size and removal.

Workers write and read the files, and keep the limit (`worker/disk`). Removing files here needs no
lock: for a worker a missing file is one that was evicted.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from reconciler.core.facts import Checkpoint
from reconciler.core.prompt_store import (
    CHECKPOINT,
    DIRECTORY,
    DIRECTORY_LENGTH,
    KEY,
    LOCK,
    TAG,
    TAG_TEXT,
    PromptStore,
)
from reconciler.host.kinds import read_at_most

PATH_BYTES = 65536
"""Maximum size of a file that holds a path."""

COUNT_BYTES = 20


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
        """Remove the prompts of all checkpoints in a folder. Raises OSError, after the others."""
        self._remove(lambda checkpoint: checkpoint.is_relative_to(folder))

    def clear(self) -> None:
        """Remove all prompts, and the key of their names. Raises OSError, after the others.

        A directory that is not marked as one of prompts is left alone.
        """
        if not self._is_marked():
            return
        try:
            self._remove(lambda _: True)
        finally:
            (self.root / KEY).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                os.truncate(self.root / LOCK, 0)  # the next worker counts

    def _is_marked(self) -> bool:
        """True if workers have made the directory one of prompts."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return read_at_most(self.root / TAG, len(TAG_TEXT)) == TAG_TEXT
        return False

    def _remove(self, chosen: Callable[[Path], bool]) -> None:
        """Remove the prompts of the chosen checkpoints. Raises OSError, after the others."""
        if not self._is_marked():
            return
        problem: OSError | None = None
        for directory in self._directories():
            try:
                text = read_at_most(directory / CHECKPOINT, PATH_BYTES)
                if chosen(Path(os.fsdecode(text))):
                    shutil.rmtree(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                problem = error
        if problem is not None:
            raise problem

    def _directories(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            for path in sorted(self.root.iterdir()):
                if DIRECTORY.fullmatch(path.name) and not path.is_symlink():
                    yield path
