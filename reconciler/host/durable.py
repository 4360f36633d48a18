"""Atomic writes of files, durable after a power cut.

On macOS `fsync` passes data to the drive, which may keep it in a cache that a power cut clears;
F_FULLFSYNC makes the drive write it to storage. On file systems without it, and on other operating
systems, `fsync` is used.
"""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""The command of fcntl(2); None on systems without it."""


def sync(descriptor: int, full_sync: int | None = FULL_SYNC) -> None:
    """Flush the data written to a file to the disk. Raises OSError."""
    if full_sync is not None:
        try:
            fcntl.fcntl(descriptor, full_sync)
        except OSError:  # a network file system, for instance
            pass
        else:
            return
    os.fsync(descriptor)


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file atomically, replacing an existing file or link. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            sync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
