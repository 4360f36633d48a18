"""Remove a model from the Hugging Face cache.

Only the folder of one model in the cache is ever removed, links are not followed, and the folder is
renamed first: no load finds a model of which half is gone.
"""

import os
import secrets
import shutil
from pathlib import Path

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.models.fetch import MODEL
from reconciler.models.places import repository_key

SECONDS = 600.0
"""For the files of a model to be removed."""


def folder_of(cache: Path, key: str) -> Path | None:
    """The folder of a model in the cache, free of links; None: it is not there."""
    root = Path(os.path.realpath(cache))
    folder = root / f"models--{key.replace('/', '--')}"
    # Keys with `--` in them may name the folder of another model.
    if not MODEL.fullmatch(key) or repository_key(folder) != key:
        return None
    return folder if folder.is_dir() and not folder.is_symlink() else None


def holds(folder: Path, path: str | None) -> bool:
    """True if an absolute path without links lies in the folder."""
    return path is not None and Path(path).is_relative_to(folder)


def remove(folder: Path) -> int:
    """Remove a folder that `folder_of` returned; the bytes of its files.

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
