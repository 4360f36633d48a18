"""Reads the manifests of a commit from git's objects, without a working tree."""

import asyncio
import posixpath
import time
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.core.manifest import MAX_BYTES, printable
from reconciler.core.snapshot import ManifestFile, flawed, read_file
from reconciler.host.names import unfit_name
from reconciler.sources.files import MAX_ENTRIES, MAX_FILES, SUFFIXES
from reconciler.sources.git.command import GitError, Repository

MAX_TOTAL_BYTES = 64 * 1024 * 1024
"""Limit of the total size of a commit's manifests."""

LINK = "120000"
SUBMODULE = "160000"


class RefusedError(Exception):
    """A commit that cannot be followed; the message says why and where."""


@dataclass(frozen=True)
class _Entry:
    mode: str
    id: str
    path: str
    """Relative to the followed folder."""


async def read(repository: Repository, commit: str, folder: str) -> tuple[ManifestFile, ...]:
    """Read the manifests under `folder` of a commit. Raises `RefusedError` and `GitError`."""
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
    """Parse files. Takes seconds if there are many, and therefore runs on a thread."""
    found = []
    for path, content in zip(paths, contents, strict=True):
        found.append(read_file(path, content))
        time.sleep(0)  # yields the interpreter lock to the event loop
    return tuple(found)


def _unfit(entry: _Entry) -> Iterator[tuple[str, str]]:
    """Paths that a watched directory would report as invalid, with the reasons."""
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
    """Reject links to folders of the commit, since a watched directory would follow them.

    Other links are ignored. Raises `RefusedError`.
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
    """Return the tree of the folder."""
    if not folder:
        return f"{commit}^{{tree}}"
    output = await repository.git("ls-tree", "-z", "--full-tree", commit, "--", folder)
    if not output:
        raise RefusedError(f"the folder {folder} does not exist")
    mode, kind = output.decode(errors="replace").split(" ")[:2]
    if kind != "tree":
        raise RefusedError(f"{folder} is {'a link' if mode == LINK else 'a file'}, not a folder")
    return f"{commit}:{folder}"


async def _entries(repository: Repository, tree: str) -> list[_Entry]:
    """List entries that a watched directory would show. Raises `RefusedError` and `GitError`."""
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
    """True unless a part of the path is hidden, as in a watched directory."""
    return not any(part.startswith(".") for part in path.split("/"))


async def _fetch_missing(repository: Repository, tree: str, wanted: list[_Entry]) -> None:
    """Fetch all missing files in one request."""
    output = await repository.git("rev-list", "--objects", "--missing=print", tree)
    missing = {line[1:] for line in output.decode(errors="replace").splitlines() if line[:1] == "?"}
    ids = sorted(missing & {entry.id for entry in wanted})
    if ids:
        await repository.fetch_files(ids)


async def _files(repository: Repository, entries: list[_Entry]) -> list[bytes]:
    """Read files. Raises `RefusedError` if they are too large, and `GitError`."""
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
        raise RefusedError(
            f"its manifests have {sum(sizes)} bytes in total, more than {MAX_TOTAL_BYTES}"
        )
    output = await repository.git("cat-file", "--batch", text=ids)
    files, at = [], 0
    for size in sizes:  # each file follows a header line and is followed by a newline
        at = output.index(b"\n", at) + 1
        files.append(output[at : at + size])
        at += size + 1
    return files


def _join(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path
