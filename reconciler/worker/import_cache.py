"""Cache on disk of the names that transformers exports, so that workers skip its 1,600 sources.

The file is stored next to this module's bytecode and follows the same rules: it is not written if
Python writes no bytecode, and a read-only folder costs time but does not prevent the start. It is
valid for one version of transformers in one location, until a folder of its models changes.
Installing, adding and removing files all change a folder's modification time; editing a file in
place does not. So only installed copies are cached, never a source tree.

Several workers may start at once: each replaces the whole file, and a file that cannot be parsed
counts as missing.
"""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTALLED = {"site-packages", "dist-packages"}
"""Names of the folders for installed packages: pip's and Debian's."""

_FOLDERS = "folders"

Structure = dict[Any, Any]
"""transformers' import structure: backends (frozenset) -> module -> names; folder -> structure."""


def location(models: Path) -> Path | None:
    """Path of the cache file for the folder `models`; None if it must not be cached."""
    bytecode = __spec__.cached
    if bytecode is None or not INSTALLED & set(models.parts):
        return None
    place = hashlib.sha256(os.fsencode(models)).hexdigest()[:16]
    return Path(bytecode).with_name(f"transformers.{place}.json")


def read(file: Path, models: Path, version: str) -> Structure | None:
    """Read the cached structure from `file`; None if it is missing, damaged or stale."""
    try:
        kept = json.loads(file.read_bytes())
        if kept["version"] != version or not kept[_FOLDERS]:
            return None
        if any(_changed(f"{models}/{name}") != at for name, at in kept[_FOLDERS].items()):
            return None
        return _structure(kept["names"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def write(file: Path, folders: dict[str, int], version: str, structure: Structure) -> None:
    """Write a structure to `file`; `folders`: their state before the structure was scanned."""
    if sys.dont_write_bytecode:
        return
    kept = json.dumps({"version": version, _FOLDERS: folders, "names": _plain(structure)})
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        try:
            with temporary.open("x", encoding="utf-8") as out:
                out.write(kept)
            temporary.replace(file)
        except OSError:
            temporary.unlink(missing_ok=True)


def folders_of(models: Path) -> dict[str, int]:
    """Modification times of the folders with sources, relative to `models` [ns since 1970]."""
    return {str(f.relative_to(models)): _changed(f) for f in _walk(models)}


def _walk(folder: Path) -> Iterator[Path]:
    yield folder
    with os.scandir(folder) as entries:
        inner = [e.path for e in entries if e.name != "__pycache__" and e.is_dir()]
    for path in inner:
        yield from _walk(Path(path))


def _changed(folder: str | Path) -> int:
    return os.stat(folder).st_mtime_ns  # noqa: PTH116  called 500 times; pathlib is slower


def _plain(structure: Structure) -> Any:
    """Convert a structure to plain JSON: the folder's exports by backends, then its folders."""
    here = [
        [sorted(backends), {module: sorted(names) for module, names in modules.items()}]
        for backends, modules in structure.items()
        if isinstance(backends, frozenset)
    ]
    inner = {k: _plain(v) for k, v in structure.items() if isinstance(k, str)}
    return [here, inner]


def _structure(plain: Any) -> Structure:
    here, inner = plain
    exported: Structure = {
        frozenset(backends): {module: set(names) for module, names in modules.items()}
        for backends, modules in here
    }
    return exported | {name: _structure(folder) for name, folder in inner.items()}
