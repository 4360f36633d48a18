"""One manifest file, as the daemon, `validate` and `doctor` open it.

Only regular files are opened, and of each a bounded number of bytes is read. What one raises is put
in words, as the flaw of its path.
"""

import errno
import os
import stat
import unicodedata
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from reconciler.core.manifest import MAX_BYTES
from reconciler.core.snapshot import ManifestFile, flawed, read_file

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 50_000
MAX_ENTRIES = 500_000
"""Names that are looked at; a directory with more is not one of manifests."""

STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Where a shell puts the output of a program, as in `validate <(kustomize build .)`."""

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of a file and of its inode."""


def read_path(path: Path) -> ManifestFile:
    """One file that somebody named, read as a walk reads it."""
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
    """A regular file, one byte more than a manifest may have at most. Raises `OSError`.

    What is no regular file is not even opened: that alone may block, or rewind a tape.
    """
    _check_regular(about)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with FileIO(handle) as file:
        about = os.fstat(handle)
        _check_regular(about)
        return identity_of(about), b"".join(_pieces(file))


def _pieces(file: FileIO) -> Iterator[bytes]:
    left = MAX_BYTES + 1
    while left:
        piece: bytes | None = file.read(left)
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, "nothing can be read from it now")
        if not piece:
            return
        left -= len(piece)
        yield piece


def _check_regular(about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        kind = KINDS.get(stat.S_IFMT(about.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")


KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


def identity_of(about: os.stat_result) -> Identity:
    """What differs once a file has changed."""
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def is_gone(error: OSError, path: str) -> bool:
    """True if nothing has that name any more, not even a link."""
    return isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.lexists(path)


def unreadable(error: OSError) -> str:
    """Why nothing can be read there."""
    if isinstance(error, FileNotFoundError):
        return "it is a link to nothing"
    return f"cannot be read: {error.strerror}"


TURNS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Bidirectional classes of characters that show others in another order than they stand."""


def unfit_name(name: str) -> str | None:
    """Why a name cannot be shown, or None."""
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:  # how Python keeps bytes that it cannot decode
        return "its name is not UTF-8; rename it"
    turned = any(unicodedata.bidirectional(character) in TURNS for character in name)
    if turned or kinds & {"Cc", "Zl", "Zp"}:
        return "its name has control characters; rename it"
    return None


def too_many(limit: int) -> OSError:
    """That a directory has more files than it may have."""
    return OSError(errno.EFBIG, f"it has more than {limit} manifest files")
