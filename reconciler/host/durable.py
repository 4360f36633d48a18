"""Files that are written as a whole or not at all, and are there after a power cut.

On macOS `fsync` hands data to the drive, which may keep it in a cache that a power cut empties;
F_FULLFSYNC has the drive write it down. Where the file system knows no such thing, and on other
systems, `fsync` is what there is.
"""

import contextlib
import fcntl
import os
import tempfile
from pathlib import Path

FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)
"""The command of fcntl(2); None on systems without it."""


def sync(descriptor: int, full_sync: int | None = FULL_SYNC) -> None:
    """Have what was written to a file reach the disk. Raises OSError."""
    if full_sync is not None:
        try:
            fcntl.fcntl(descriptor, full_sync)
        except OSError:  # a network's file system, for instance
            pass
        else:
            return
    os.fsync(descriptor)


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put a file there, in place of what was; a link is replaced, not followed. Raises OSError."""
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
