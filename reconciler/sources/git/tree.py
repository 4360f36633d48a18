"""The manifests of a commit, read from git's objects: nothing is written to disk for it."""

import asyncio
import posixpath
import time
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.core.manifest import MAX_BYTES, printable
from reconciler.core.snapshot import ManifestFile, flawed, read_file
from reconciler.sources.files import MAX_ENTRIES, MAX_FILES, SUFFIXES, unfit_name
from reconciler.sources.git.command import GitError, Repository

MAX_TOTAL_BYTES = 64 * 1024 * 1024
"""Of all manifests of a commit."""

LINK = "120000"
SUBMODULE = "160000"


class RefusedError(Exception):
    """A commit that cannot be followed; the message says why and where."""


@dataclass(frozen=True)
class _Entry:
    mode: str
    id: str
    path: str
    """Relative to the folder that is followed."""


async def read(repository: Repository, commit: str, folder: str) -> tuple[ManifestFile, ...]:
    """The manifests under `folder` of a commit. Raises `RefusedError` and `GitError`."""
    tree = await _folder(repository, commit, folder)
    entries = await _entries(repository, tree)
    unfit = {path: why for e in entries for path, why in _unfit(e)}
    if unfit:
        return tuple(flawed(printable(_join(folder, path)), why) for path, why in unfit.items())
    wanted = [e for e in entries if e.path.endswith(SUFFIXES)]
    links = [e for e in entries if e.mode == LINK]
    for entry in links:
        if entry in wanted:
            raise RefusedError(f"{_join(folder, entry.path)} is a link; links are refused")
    if len(wanted) + len(links) > MAX_FILES:
        raise RefusedError(f"more than {MAX_FILES} manifest files and links")
    await _fetch_missing(repository, tree, [*wanted, *links])
    await _check_links(repository, commit, folder, links)
    contents = await _files(repository, wanted)
    paths = [_join(folder, entry.path) for entry in wanted]
    return await asyncio.to_thread(_read_all, paths, contents)


def _read_all(paths: list[str], contents: list[bytes]) -> tuple[ManifestFile, ...]:
    """What the files declare. Takes seconds of many, so that it is called beside the event loop."""
    found = []
    for path, content in zip(paths, contents, strict=True):
        found.append(read_file(path, content))
        time.sleep(0)  # lets the event loop run, which waits for the interpreter meanwhile
    return tuple(found)


def _unfit(entry: _Entry) -> Iterator[tuple[str, str]]:
    """Paths of which a watched directory would complain, and why."""
    folders, _, name = entry.path.rpartition("/")
    parts = folders.split("/") if folders else []
    for at, part in enumerate(parts):
        if part.endswith(SUFFIXES):
            yield "/".join(parts[: at + 1]), "is a directory, not a file; rename one of them"
    if not name.endswith(SUFFIXES):
        return
    for part in (*parts, name):
        if (why := unfit_name(part)) is not None:
            yield entry.path, why
    if entry.mode == SUBMODULE:
        yield entry.path, "is a submodule, not a file"


async def _check_links(
    repository: Repository, commit: str, folder: str, links: list[_Entry]
) -> None:
    """Raises `RefusedError` if a link leads to a folder of the commit: in a watched directory its
    manifests would be followed. Other links are no concern of ours.
    """
    if not links:
        return
    output = await repository.git("ls-tree", "-r", "-d", "-z", "--name-only", "--full-tree", commit)
    folders = {".", *output.decode(errors="surrogateescape").split("\0")[:-1]}
    for entry, content in zip(links, await _files(repository, links), strict=True):
        place = posixpath.dirname(_join(folder, entry.path))
        target = content.decode(errors="surrogateescape")
        if posixpath.normpath(posixpath.join(place, target)) in folders:
            words = "is a link to a folder; links are refused"
            raise RefusedError(f"{printable(_join(folder, entry.path))} {words}")


async def _folder(repository: Repository, commit: str, folder: str) -> str:
    """The tree of the folder."""
    if not folder:
        return f"{commit}^{{tree}}"
    output = await repository.git("ls-tree", "-z", "--full-tree", commit, "--", folder)
    if not output:
        raise RefusedError(f"the folder {folder} is not there")
    mode, kind = output.decode(errors="replace").split(" ")[:2]
    if kind != "tree":
        raise RefusedError(f"{folder} is {'a link' if mode == LINK else 'a file'}, not a folder")
    return f"{commit}:{folder}"


async def _entries(repository: Repository, tree: str) -> list[_Entry]:
    """What a watched directory would show of the tree. Raises `RefusedError` and `GitError`."""
    output = await repository.git("ls-tree", "-r", "-z", "--full-tree", tree)
    if output.count(b"\0") > MAX_ENTRIES:
        raise RefusedError(f"it has more than {MAX_ENTRIES} entries")
    return await asyncio.to_thread(lambda: list(_visible(output)))


def _visible(listing: bytes) -> Iterator[_Entry]:
    for line in listing.decode(errors="surrogateescape").split("\0")[:-1]:
        about, _, path = line.partition("\t")
        if _is_visible(path):
            mode, _kind, id_ = about.split(" ")
            yield _Entry(mode, id_, path)


def _is_visible(path: str) -> bool:
    """As in a watched directory: hidden files and folders belong to somebody else."""
    return not any(part.startswith(".") for part in path.split("/"))


async def _fetch_missing(repository: Repository, tree: str, wanted: list[_Entry]) -> None:
    """Fetch those files that are not here yet, all at once."""
    output = await repository.git("rev-list", "--objects", "--missing=print", tree)
    missing = {line[1:] for line in output.decode(errors="replace").splitlines() if line[:1] == "?"}
    ids = sorted(missing & {entry.id for entry in wanted})
    if ids:
        await repository.fetch_files(ids)


async def _files(repository: Repository, entries: list[_Entry]) -> list[bytes]:
    """What stands in the files. Raises `RefusedError` where that is too much, and `GitError`."""
    ids = "".join(f"{entry.id}\n" for entry in entries)
    output = await repository.git("cat-file", "--batch-check=%(objectsize)", text=ids)
    lines = output.decode().splitlines()
    if any(not line.isdigit() for line in lines):
        raise GitError(next(line for line in lines if not line.isdigit()))
    sizes = list(map(int, lines))
    for entry, size in zip(entries, sizes, strict=True):
        if size > MAX_BYTES:
            raise RefusedError(f"{entry.path} has {size} bytes, more than {MAX_BYTES}")
    if sum(sizes) > MAX_TOTAL_BYTES:
        raise RefusedError(f"its files have {sum(sizes)} bytes, more than {MAX_TOTAL_BYTES}")
    output = await repository.git("cat-file", "--batch", text=ids)
    files, at = [], 0
    for size in sizes:  # each after a line of its own, and before the end of a line
        at = output.index(b"\n", at) + 1
        files.append(output[at : at + size])
        at += size + 1
    return files


def _join(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path
