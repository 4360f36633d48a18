"""Walks only the changed paths, if a watch has reported them.

The reported paths are read with everything below them; all else is copied from the last walk. A
change therefore costs the same among 10,000 files as among ten. A change without an event is found
by the next full walk, which also happens whenever the reported paths are ambiguous.
"""

import os
from bisect import bisect_left, insort
from collections.abc import Iterable

from reconciler.core.manifest import printable
from reconciler.core.snapshot import ManifestFile
from reconciler.sources.files import MAX_FILES, too_many
from reconciler.sources.walk import PATH, Folder, Progress, Walk, Walker

Entry = tuple[str, str]
"""A folder with a trailing slash, or empty for the directory itself, and a name in it."""


def walk(
    directory: str,
    before: Walk | None,
    blocked: frozenset[str],
    progress: Progress,
    named: frozenset[str] | None = None,
) -> Walk:
    """Read the manifests under `directory`.

    `before` is the last walk; paths in `blocked` are not accessed. `named` are relative paths: all
    changes since `before` known to the watch; None if everything may have changed.
    Raises `OSError` if the directory itself cannot be read, or is too large.
    """
    sure = named is not None and all(printable(path) == path for path in named)
    if sure and named is not None and before is not None and not (before.linked or blocked):
        again = _walk_named(Walker(directory, before, blocked, progress), before, named)
        if again is not None:
            return again
    return Walker(directory, before, blocked, progress).walk()


def _walk_named(walker: Walker, before: Walk, named: frozenset[str]) -> Walk | None:
    """Walk the named paths and unsettled files; None if a full walk is needed."""
    entries = _entries(before, named | _unsettled(before))
    if walker.enter(walker.directory, "") != before.root:
        return None
    walker.folders = dict(before.folders)
    walker.seen |= {folder.node for folder in before.folders.values()}
    touched = {relative for relative, _ in entries}
    try:
        for relative in touched:
            known = before.folders[relative]
            walker.folders[relative] = Folder(known.node, dict(known.read), set(known.unsettled))
        for relative, name in entries:
            _forget(walker, relative, name)
        for relative, name in entries:
            walker.linked |= os.path.islink(f"{walker.directory}/{relative}{name}")  # noqa: PTH114
            found = walker.entry(relative, name)
            walker.walk_from([found] if found is not None else [])
        empty = {folder for folder in touched if _is_empty(walker, folder)}
    except OSError:  # such as of a folder removed meanwhile
        return None
    if walker.linked:
        return None
    gone = [f"{relative}{name}" for relative, name in entries]
    files = _spliced(before.files, gone, walker.files)
    kept = {f for f in before.empty_folders if f not in touched and not _is_below(f, gone)}
    empty_folders = tuple(sorted(kept | {*walker.empty_folders} | empty - {""}))
    is_empty = "" in empty if "" in touched else before.empty
    walker.progress.answered()
    return Walk(files, before.root, is_empty, empty_folders, walker.folders, linked=False)


def _unsettled(before: Walk) -> set[str]:
    return {f"{path}{name}" for path, folder in before.folders.items() for name in folder.unsettled}


def _entries(before: Walk, paths: frozenset[str]) -> list[Entry]:
    """Entries to walk: each path, or its topmost parent that is new or named itself."""
    entries: set[Entry] = set()
    for path in paths:
        relative, left = "", path
        while True:
            name, _, left = left.partition("/")
            below = f"{relative}{name}/"
            if not left or below not in before.folders or f"{relative}{name}" in paths:
                entries.add((relative, name))
                break
            relative = below
    return sorted(entries)


def _forget(walker: Walker, relative: str, name: str) -> None:
    """Drop the results of the last walk for an entry."""
    here = walker.folders[relative]
    here.read.pop(name, None)
    here.unsettled.discard(name)
    top = f"{relative}{name}/"
    if top in walker.folders:
        for folder in [f for f in walker.folders if f.startswith(top)]:
            walker.seen.discard(walker.folders.pop(folder).node)


def _is_empty(walker: Walker, folder: str) -> bool:
    """True if a folder has no entries. Raises `OSError`."""
    path = f"{walker.directory}/{folder}"
    walker.ask(path)
    with os.scandir(path) as found:
        return next(found, None) is None


def _is_below(folder: str, gone: Iterable[str]) -> bool:
    return any(folder.startswith(f"{path}/") for path in gone)


def _spliced(
    files: tuple[ManifestFile, ...], gone: Iterable[str], come: Iterable[ManifestFile]
) -> tuple[ManifestFile, ...]:
    """Replace the files at or below some paths in a sorted tuple. Raises `OSError`."""
    kept = list(files)
    for path in gone:
        for first, last in ((path, f"{path}\0"), (f"{path}/", f"{path}0")):  # "0" follows "/"
            start = bisect_left(kept, first, key=PATH)
            del kept[start : bisect_left(kept, last, start, key=PATH)]
    for file in come:
        insort(kept, file, key=PATH)
    if len(kept) > MAX_FILES:
        raise too_many(MAX_FILES)
    return tuple(kept)
