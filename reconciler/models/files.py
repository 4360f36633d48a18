"""Files and folders that others wrote, looked at so that none of them stops the look.

`Path.is_file` raises where a folder must not be searched or a name is too long for the file
system, and opening a pipe waits for ever. Here what cannot be looked at is not there.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from reconciler.core.errors import Cause, LoadError, Problem

MAX_MESSAGE = 500
"""Characters of what is wrong with a checkpoint; its files can put words into an error."""


def is_file(path: Path) -> bool:
    """True if it is a regular file, or a link to one, that can be looked at."""
    return os.path.isfile(path)  # noqa: PTH113  answers whatever goes wrong


def exists(path: Path) -> bool:
    """True if there is something that can be looked at; a broken link leads to nothing."""
    return os.path.exists(path)  # noqa: PTH110  answers whatever goes wrong


def is_directory(path: Path) -> bool:
    """True if it is a directory, or a link to one, that can be looked at."""
    return os.path.isdir(path)  # noqa: PTH112  answers whatever goes wrong


def files_below(path: Path) -> Iterator[Path]:
    """The regular files in a directory and in those inside it, as far as they can be looked at."""
    for folder, _, names in os.walk(path):
        yield from (file for name in names if is_file(file := Path(folder, name)))


def read_bytes(path: Path, most: int) -> bytes:
    """The contents of a regular file of at most so many bytes. Raises OSError or ValueError."""
    if exists(path) and not is_file(path):
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most} bytes")
    return data


def as_text(words: str) -> str:
    """Words from a file in a form that every answer can hold: valid Unicode, of bounded length."""
    text = words[: MAX_MESSAGE + 1].encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."


def invalid(cause: Cause, param: str, path: Path, words: str) -> LoadError:
    """The error that says what is wrong with `path`, which the request's key `param` names."""
    return LoadError(Problem(cause, as_text(f"{path}: {words}"), param=param))
