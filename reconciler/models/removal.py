"""Remove a model from the Hugging Face cache.

Only the model's own folder in the cache is removed, and links are not followed. The folder is
renamed first, so that no load finds a partially removed model. If the daemon ends before the files
are removed, the next removal removes them.
"""

import fcntl
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.models.fetch import LOCK, MODEL
from reconciler.models.places import repository_key

SECONDS = 600.0
"""Time limit to remove the files of a model."""

ASIDE = re.compile(r"\.removing-[0-9a-f]{16}")
"""Names of folders whose removal has begun."""


def folder_of(cache: Path, key: str) -> Path | None:
    """Folder of a model in the cache, with links resolved; None if it does not exist."""
    root = Path(os.path.realpath(cache))
    folder = root / f"models--{key.replace('/', '--')}"
    # A key that contains `--` may map to the folder of another model.
    if not MODEL.fullmatch(key) or repository_key(folder) != key:
        return None
    # A file system may ignore case, but the checks for users do not.
    if not root.is_dir() or folder not in root.iterdir():
        return None
    return folder if folder.is_dir() and not folder.is_symlink() else None


def holds(folder: Path, path: str | None) -> bool:
    """True if an absolute path, with links resolved, is inside the folder."""
    return path is not None and Path(path).is_relative_to(folder)


def set_aside(folder: Path) -> Path:
    """Rename a folder from `folder_of`, so that it is no model any more; return its new path.

    Raises `LoadError`: `ModelNotFound`, `ModelInUse` by a download, `NotRemovable`.
    """
    leaving = folder.with_name(f".removing-{secrets.token_hex(8)}")
    try:
        _refuse_if_downloading(folder)
        folder.rename(leaving)
    except FileNotFoundError:
        words = f"{folder} does not exist any more"
        raise LoadError(Problem(Reason.MODEL_NOT_FOUND, words, param="model")) from None
    except OSError as error:
        raise _failed(folder, error) from None
    return leaving


def remove(leaving: Path) -> int:
    """Remove a folder from `set_aside`; return the total bytes of its files.

    Raises `LoadError` `NotRemovable`.
    """
    try:
        size = sum(_size(Path(at) / name) for at, _, names in os.walk(leaving) for name in names)
        with suppress(FileNotFoundError):  # a removal that ends now removes this one's files too
            shutil.rmtree(leaving)
    except OSError as error:
        raise _failed(leaving, error) from None
    for left in leaving.parent.iterdir():
        if ASIDE.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)
    return size


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _refuse_if_downloading(folder: Path) -> None:
    """Raise `LoadError` if a process, of this daemon or another one, downloads the model."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = f"{repository_key(folder)} is in use by a download; cancel that first"
        raise LoadError(Problem(Reason.MODEL_IN_USE, words, param="model")) from None
    finally:
        os.close(lock)


def _failed(folder: Path, error: OSError) -> LoadError:
    words = f"{folder} cannot be removed: {error.strerror}; remove it by hand"
    return LoadError(Problem(Reason.NOT_REMOVABLE, words, param="model"))
