"""Remove a model from the Hugging Face cache.

Only the model's own folder in the cache is removed, and links are not followed. The folder is
renamed first, so that no load finds a partially removed model.
"""

import os
import secrets
import shutil
from pathlib import Path

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.models.fetch import MODEL
from reconciler.models.places import repository_key

SECONDS = 600.0
"""Time limit to remove the files of a model."""


def folder_of(cache: Path, key: str) -> Path | None:
    """Folder of a model in the cache, with links resolved; None if it does not exist."""
    root = Path(os.path.realpath(cache))
    folder = root / f"models--{key.replace('/', '--')}"
    # A key that contains `--` may map to the folder of another model.
    if not MODEL.fullmatch(key) or repository_key(folder) != key:
        return None
    return folder if folder.is_dir() and not folder.is_symlink() else None


def holds(folder: Path, path: str | None) -> bool:
    """True if an absolute path, with links resolved, is inside the folder."""
    return path is not None and Path(path).is_relative_to(folder)


def remove(folder: Path) -> int:
    """Remove a folder from `folder_of`; return the total bytes of its files.

    Raises `LoadError` `NotRemovable`.
    """
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    leaving = folder.with_name(f".removing-{secrets.token_hex(8)}")
    try:
        folder.rename(leaving)
    except OSError as error:
        raise _failed(folder, error) from None
    try:
        shutil.rmtree(leaving)
    except OSError as error:
        raise _failed(leaving, error) from None
    return size


def _failed(folder: Path, error: OSError) -> LoadError:
    words = f"{folder} cannot be removed: {error.strerror}; remove it by hand"
    return LoadError(Problem(Reason.NOT_REMOVABLE, words, param="model"))
