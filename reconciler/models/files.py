"""Files and folders that others wrote, looked at so that none of them stops the look.

`Path.is_file` raises where a folder must not be searched or a name is too long for the file
system, and opening a pipe waits for ever. Here what cannot be looked at is not there, and only
regular files of a bounded size are read.
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
"""Characters of what is wrong with a checkpoint; its files can put words into an error."""

MAX_ENTRIES = 100_000
"""Of one directory. The largest published models have a few hundred files."""


class FaultyFileError(ValueError):
    """A file of a checkpoint that cannot be used. `path` is the file or directory at fault."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path


def faulty(path: Path, error: Exception) -> Exception:
    """What reading one file raised, as an error that names the file.

    One of the system stays what it is: it may pass, and a fault of the file does not.
    """
    if isinstance(error, OSError | MemoryError | FaultyFileError):
        return error
    return FaultyFileError(path, f"cannot be read: {error!s:.{MAX_MESSAGE}}")


def is_file(path: Path) -> bool:
    """True if it is a regular file, or a link to one, that can be looked at."""
    return os.path.isfile(path)  # noqa: PTH113  answers whatever goes wrong


def exists(path: Path) -> bool:
    """True if there is something that can be looked at; a broken link leads to nothing."""
    return os.path.exists(path)  # noqa: PTH110  answers whatever goes wrong


def is_directory(path: Path) -> bool:
    """True if it is a directory, or a link to one, that can be looked at."""
    return os.path.isdir(path)  # noqa: PTH112  answers whatever goes wrong


def names_in(path: Path) -> list[str]:
    """The names in a directory, in order. Raises OSError, or ValueError where they are too many."""
    with os.scandir(path) as entries:
        names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
    if len(names) > MAX_ENTRIES:
        raise ValueError(f"it holds more than {MAX_ENTRIES} files")
    return sorted(names)


def files_below(path: Path) -> Iterator[Path]:
    """The regular files in a directory and in those inside it, as far as they can be looked at.

    No more than `MAX_ENTRIES` of them.
    """
    found = (
        file
        for folder, _, names in os.walk(path)
        for name in names
        if is_file(file := Path(folder, name))
    )
    yield from islice(found, MAX_ENTRIES)


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened for reading. Raises OSError, or ValueError where it is none.

    Whatever takes its place between the look and the opening is not waited for either.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int) -> bytes:
    """The contents of a regular file of at most so many bytes. Raises OSError or ValueError."""
    with open_regular(path) as file:
        too_large = os.fstat(file.fileno()).st_size > most
        data = b"" if too_large else file.read(most + 1)
    if too_large or len(data) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return data


def as_text(words: str) -> str:
    """Words from a file in a form that every answer, log and terminal can hold: valid Unicode of
    bounded length, without control characters.
    """
    text = words[: MAX_MESSAGE + 1].encode("utf-8", "replace").decode()
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."


def invalid(reason: Reason, param: str, path: Path, words: str) -> LoadError:
    """The error that says what is wrong with `path`, which the request's key `param` names."""
    return LoadError(Problem(reason, as_text(f"{path}: {words}"), param=param))


def error_of(
    error: BaseException,
    path: Path,
    reason: Reason = Reason.INVALID_CHECKPOINT,
    param: str = "model",
) -> LoadError:
    """What reading the directory `path` raised, as the error of that directory and of no other.

    This is the one place that judges it: files of others raise what they like.
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
