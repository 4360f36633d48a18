"""The daemon's side of prompts on disk: their location, size and removal.

Workers write and read the files, and keep the limit (`worker/disk`). Removing files here needs no
lock: for a worker a missing file is one that was evicted.
"""

import os
import shutil
from collections.abc import Iterator
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
    PromptStore,
)


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
            return int((self.root / LOCK).read_bytes()[:20])
        return 0

    def remove(self, folder: Path) -> None:
        """Remove the prompts of all checkpoints in a folder. Raises OSError."""
        for directory in self._directories():
            with suppress(FileNotFoundError):
                checkpoint = os.fsdecode((directory / CHECKPOINT).read_bytes())
                if Path(checkpoint).is_relative_to(folder):
                    shutil.rmtree(directory)

    def clear(self) -> None:
        """Remove all prompts, and the key of their names. Raises OSError.

        A directory that is not marked as one of prompts is left alone.
        """
        if not (self.root / TAG).exists():
            return
        for directory in self._directories():
            if (directory / CHECKPOINT).exists():
                shutil.rmtree(directory)
        (self.root / KEY).unlink(missing_ok=True)

    def _directories(self) -> Iterator[Path]:
        with suppress(FileNotFoundError):
            for path in sorted(self.root.iterdir()):
                if DIRECTORY.fullmatch(path.name) and not path.is_symlink():
                    yield path
