"""Reads single manifest files for the daemon, `validate` and `doctor`.

Only regular files are opened, and a bounded number of bytes is read from each. An error becomes a
diagnostic of its path.
"""

import errno
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from reconciler.core.manifest import MAX_BYTES
from reconciler.core.snapshot import ManifestFile, flawed, read_file
from reconciler.host.kinds import STREAMS, check_regular

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 50_000
MAX_ENTRIES = 500_000
"""Maximum number of directory entries; a directory with more is not one of manifests."""

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and the modification times of a file and of its inode."""


def read_path(path: Path) -> ManifestFile:
    """Read a file named by the user, as a walk reads it."""
    try:
        if str(path).startswith(STREAMS):
            with path.open("rb") as file:
                return read_file(str(path), file.read(MAX_BYTES + 1))
        return read_file(str(path), read_bytes(str(path), path.stat())[1])
    except OSError as error:
        gone = is_gone(error, str(path))
        words = f"cannot be read: {error.strerror}" if gone else unreadable(error)
        return flawed(str(path), words)


def read_bytes(path: str, about: os.stat_result) -> tuple[Identity, bytes]:
    """Read a regular file, up to one byte more than the size limit of manifests. Raises `OSError`.

    Other kinds of files are never opened: opening alone may block, or rewind a tape.
    """
    check_regular(about)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with FileIO(handle) as file:
        about = os.fstat(handle)
        check_regular(about)
        return identity_of(about), b"".join(_pieces(file))


def _pieces(file: FileIO) -> Iterator[bytes]:
    left = MAX_BYTES + 1
    while left:
        piece: bytes | None = file.read(left)
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, "no data is available now")
        if not piece:
            return
        left -= len(piece)
        yield piece


def identity_of(about: os.stat_result) -> Identity:
    """Identity of a file's content; changes with any change of the file."""
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def is_gone(error: OSError, path: str) -> bool:
    """True if the path no longer exists, not even as a link."""
    return isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.lexists(path)


def unreadable(error: OSError) -> str:
    """Error message for a path that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "it is a broken link"
    return f"cannot be read: {error.strerror}"


def too_many(limit: int) -> OSError:
    """Error for a directory with more files than allowed."""
    return OSError(errno.EFBIG, f"it has more than {limit} manifest files")
