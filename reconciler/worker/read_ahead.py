"""Read weight files into the page cache, before the MLX thread reads them.

Streams get no token while the MLX thread waits for a disk. So the files of a draft model or an
adapter are read on another thread first. The MLX thread then finds them in memory, and a disk that
hangs fails the load instead of the worker.
"""

import asyncio
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

PIECE_BYTES = 64 * 2**20
"""Bytes that are read at a time."""

BUFFER_BYTES = 2**20

SECONDS = 300.0
"""Time limit for one piece."""


class NotReadError(OSError):
    """The files cannot be read in time."""


class ReadAhead:
    """Reads files ahead, on one thread: a disk that hangs holds no other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "read ahead")

    async def read(self, directory: str) -> None:
        """Read the weight files of a directory. Raises `NotReadError`.

        Files that cannot be read are left out: MLX reports them.
        """
        files = await self._call(directory, _files, directory)
        for path in files:
            offset = 0
            while more := await self._call(directory, _read, path, offset):
                offset += more

    async def _call(self, directory: str, function: Any, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(SECONDS):
                return await loop.run_in_executor(self._thread, function, *arguments)
        except TimeoutError:
            raise NotReadError(
                f"{directory} cannot be read: its disk has not answered for {SECONDS:.0f} s; "
                "reconnect it, or use a copy on another disk"
            ) from None


def _files(directory: str) -> list[Path]:
    with suppress(OSError):
        return sorted(Path(directory).glob("*.safetensors"))
    return []


def _read(path: Path, offset: int) -> int:
    """Read a piece of a regular file; return its size, 0 at the end."""
    done = 0
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return 0
            while done < PIECE_BYTES:
                if not (size := len(os.pread(descriptor, BUFFER_BYTES, offset + done))):
                    break
                done += size
        finally:
            os.close(descriptor)
    return done
