"""Kinds of files, and reading regular ones: opening a FIFO waits, and a device may never end."""

import errno
import os
import stat
from pathlib import Path

STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Paths of a program's output in shells, as in `validate <(kustomize build .)`."""

KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


def kind_of(mode: int) -> str:
    """Kind of a file that is not a regular one, from its `st_mode`."""
    return KINDS.get(stat.S_IFMT(mode), "something else")


def read_at_most(path: Path, most: int) -> bytes:
    """Read a file that the user names, up to one byte above `most`.

    Raises OSError, also if it is neither a regular file nor a stream of a shell.
    """
    if str(path).startswith(STREAMS):
        with path.open("rb") as file:
            return file.read(most + 1)
    check_regular(path.stat())
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(handle, "rb") as file:
        check_regular(os.fstat(handle))
        return file.read(most + 1)


def check_regular(about: os.stat_result) -> None:
    """Raise OSError if it is not a regular file."""
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind_of(about.st_mode)}, not a regular file")
