"""Read files into the page cache, without copying them into this process.

The kernel is advised that a range of a file will be needed soon. It reads what is not cached, and
ranges that are cached cost next to nothing: 20 ms of CPU time for 3.4 GB on Linux. `F_RDADVISE` of
macOS was not run on a Mac.
"""

import fcntl
import os
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil

from reconciler.models.adapter import WEIGHTS
from reconciler.models.files import open_regular
from reconciler.models.looker import Looker
from reconciler.models.weights import shards_of

T = TypeVar("T")

PIECE_BYTES = 64 * 2**20
"""Bytes of a file that are read ahead at a time."""

STEP_BYTES = 128 * 2**10
"""Bytes of one call. Linux reads no more than the device's read-ahead window for a call, which is
128 kB by default, and ignores the rest."""

RESERVE = 0.1
"""Part of the machine's memory that must stay available, besides the files."""

SECONDS = 60.0
"""Timeout for one piece: a slow network drive needs seconds."""

F_RDADVISE = 44
"""Command of macOS's fcntl, in <sys/fcntl.h>; Python has no name for it."""

Advise = Callable[[int, int, int], None]
"""Advises the kernel that a range of an open file is needed: descriptor, offset, length."""


def advisory(offset: int, length: int) -> bytes:
    """Argument of `F_RDADVISE`: `struct radvisory` of macOS, an off_t and an int."""
    return struct.pack("@qi4x", offset, length)


def system_advise(descriptor: int, offset: int, length: int) -> None:
    """Advise this system's kernel that a range of an open file is needed. Raises OSError."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, F_RDADVISE, advisory(offset, length))
    else:
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)


def available_memory() -> int:
    """Memory that files may take: cached files count as available. Negative if it is short."""
    memory = psutil.virtual_memory()
    return int(memory.available - RESERVE * memory.total)


class ReadAhead:
    """Reads checkpoints ahead. Its methods block, at most for `SECONDS` if a drive hangs."""

    def __init__(
        self, advise: Advise = system_advise, room: Callable[[], int] = available_memory
    ) -> None:
        """`room` returns the memory that is left [bytes]."""
        self._advise = advise
        self._room = room
        self._looker = Looker()

    def room(self) -> int:
        """Memory that files may take [bytes]."""
        return self._room()

    def files(self, checkpoint: Path) -> dict[Path, int]:
        """Weight files of a model or adapter, and their sizes [bytes].

        Raises `LoadError`, OSError or ValueError.
        """
        return self._ask(_sizes, checkpoint)

    def read(self, file: Path, offset: int) -> int | None:
        """Read a piece of a file from `offset`; return the offset of the next one.

        Returns None at the end of the file, or if memory is short. Raises `LoadError`, OSError, or
        ValueError if it is not a regular file.
        """
        if self.room() <= 0:
            return None
        return self._ask(lambda path: _read(path, offset, self._advise), file)

    def _ask(self, function: Callable[[Path], T], path: Path) -> T:
        results: Sequence[T | BaseException] = self._looker.each(function, [path], SECONDS)
        (result,) = results
        if isinstance(result, BaseException):
            raise result
        return result


def _sizes(checkpoint: Path) -> dict[Path, int]:
    files = shards_of(checkpoint) or [checkpoint / WEIGHTS]
    return {file: file.stat().st_size for file in files}


def _read(path: Path, offset: int, advise: Advise) -> int | None:
    with open_regular(path) as file:
        descriptor = file.fileno()
        size = os.fstat(descriptor).st_size
        end = min(size, offset + PIECE_BYTES)
        for at in range(offset, end, STEP_BYTES):
            advise(descriptor, at, min(STEP_BYTES, end - at))
    return end if end < size else None
