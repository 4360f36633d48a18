"""Robust access to files and directories that other programs wrote.

`Path.is_file` raises if a directory may not be searched or a name is too long for the file system,
and opening a pipe blocks for ever. Here, inaccessible paths count as absent, and only regular files
of bounded size are read.
"""

import os
import stat
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from reconciler.core.errors import LoadError, Problem, Reason

MAX_MESSAGE = 500
"""Maximum characters of an error message about a checkpoint, whose files may supply its text."""

MAX_ENTRIES = 100_000
"""Maximum entries of one directory. The largest published models have a few hundred files."""


class FaultyFileError(ValueError):
    """A file of a checkpoint that cannot be used. `path` is the faulty file or directory."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def faulty(path: Path, error: Exception) -> Exception:
    """Convert an exception from reading one file into an error that names the file.

    OSError and MemoryError are returned unchanged: they may be temporary, unlike a fault of the
    file.
    """
    if isinstance(error, OSError | MemoryError | FaultyFileError):
        return error
    return FaultyFileError(path, f"cannot be read: {error!s:.{MAX_MESSAGE}}")


def is_file(path: Path) -> bool:
    """True if it is a regular file, or a link to one, and accessible."""
    return os.path.isfile(path)  # noqa: PTH113  never raises OSError


def exists(path: Path) -> bool:
    """True if the path exists and is accessible. A broken link does not exist."""
    return os.path.exists(path)  # noqa: PTH110  never raises OSError


def is_directory(path: Path) -> bool:
    """True if it is a directory, or a link to one, and accessible."""
    return os.path.isdir(path)  # noqa: PTH112  never raises OSError


def names_in(path: Path) -> list[str]:
    """Sorted names in a directory. Raises OSError, or ValueError if there are too many."""
    with os.scandir(path) as entries:
        names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
    if len(names) > MAX_ENTRIES:
        raise ValueError(f"it holds more than {MAX_ENTRIES} files")
    return sorted(names)


def files_below(path: Path) -> Iterator[Path]:
    """Regular files in a directory and its subdirectories; inaccessible ones are skipped.

    Yields at most `MAX_ENTRIES` files.
    """
    found = (
        file
        for folder, _, names in os.walk(path)
        for name in names
        if is_file(file := Path(folder, name))
    )
    yield from islice(found, MAX_ENTRIES)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Raises OSError, or ValueError if it is not a regular file.

    Never blocks, even if a pipe or device replaces the file between the check and the opening.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int) -> bytes:
    """Read a regular file of at most `most` bytes. Raises OSError or ValueError."""
    with open_regular(path) as file:
        too_large = os.fstat(file.fileno()).st_size > most
        data = b"" if too_large else file.read(most + 1)
    if too_large or len(data) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return data


def as_text(words: str) -> str:
    """Make text from a file safe for every response, log and terminal.

    The result is valid Unicode of bounded length without control characters.
    """
    text = words[: MAX_MESSAGE + 1].encode("utf-8", "replace").decode()
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."


def invalid(reason: Reason, param: str, path: Path, words: str) -> LoadError:
    """Build the error for a fault of `path`, which the request's key `param` names."""
    return LoadError(Problem(reason, as_text(f"{path}: {words}"), param=param))


def error_of(
    error: BaseException,
    path: Path,
    reason: Reason = Reason.INVALID_CHECKPOINT,
    param: str = "model",
) -> LoadError:
    """Convert an exception from reading the directory `path` into a `LoadError` for that directory.

    Every such exception is converted here: hostile files can raise any exception.
    """
    if isinstance(error, LoadError):
        return error
    if isinstance(error, FaultyFileError):
        return invalid(reason, param, error.path, f"{error!s:.{MAX_MESSAGE}}")
    if isinstance(error, OSError) and error.strerror is not None:
        file = error.filename if isinstance(error.filename, str | os.PathLike) else path
        return invalid(reason, param, Path(file), f"cannot be read: {error.strerror}")
    words = f"cannot be read: {type(error).__name__}: {error!s:.{MAX_MESSAGE}}"
    return invalid(reason, param, path, words)
