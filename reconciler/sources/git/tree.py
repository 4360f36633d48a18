"""The manifests of a commit, read from git's objects: nothing is written to disk for it."""

from dataclasses import dataclass

from reconciler.core.manifest import MAX_BYTES
from reconciler.core.snapshot import ManifestFile, read_file
from reconciler.sources.files import MAX_FILES, SUFFIXES
from reconciler.sources.git.command import GitError, Repository

MAX_TOTAL_BYTES = 64 * 1024 * 1024
"""Of all manifests of a commit."""

LINK = "120000"


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
    for entry in entries:
        if entry.mode == LINK:
            raise RefusedError(f"{_join(folder, entry.path)} is a link; links are refused")
    wanted = [e for e in entries if _is_manifest(e.path)]
    if len(wanted) > MAX_FILES:
        raise RefusedError(f"more than {MAX_FILES} manifest files")
    await _fetch_missing(repository, tree, wanted)
    contents = await _files(repository, wanted)
    pairs = zip(wanted, contents, strict=True)
    return tuple(read_file(_join(folder, entry.path), content) for entry, content in pairs)


async def _folder(repository: Repository, commit: str, folder: str) -> str:
    """The tree of the folder."""
    if not folder:
        return f"{commit}^{{tree}}"
    told = await repository.git("ls-tree", "-z", "--full-tree", commit, "--", folder)
    if not told:
        raise RefusedError(f"the folder {folder} is not there")
    mode, kind = told.decode(errors="replace").split(" ")[:2]
    if kind != "tree":
        raise RefusedError(f"{folder} is {'a link' if mode == LINK else 'a file'}, not a folder")
    return f"{commit}:{folder}"


async def _entries(repository: Repository, tree: str) -> list[_Entry]:
    told = await repository.git("ls-tree", "-r", "-z", "--full-tree", tree)
    entries = []
    for line in told.decode(errors="replace").split("\0")[:-1]:
        about, _, path = line.partition("\t")
        mode, _kind, id_ = about.split(" ")
        entries.append(_Entry(mode, id_, path))
    return entries


def _is_manifest(path: str) -> bool:
    """As in a watched directory: hidden files and folders belong to somebody else."""
    return path.endswith(SUFFIXES) and not any(p.startswith(".") for p in path.split("/"))


async def _fetch_missing(repository: Repository, tree: str, wanted: list[_Entry]) -> None:
    """Fetch those files that are not here yet, all at once."""
    told = await repository.git("rev-list", "--objects", "--missing=print", tree)
    missing = {line[1:] for line in told.decode(errors="replace").splitlines() if line[:1] == "?"}
    ids = sorted(missing & {entry.id for entry in wanted})
    if ids:
        await repository.fetch_files(ids)


async def _files(repository: Repository, entries: list[_Entry]) -> list[bytes]:
    """What stands in the files. Raises `RefusedError` where that is too much, and `GitError`."""
    ids = "".join(f"{entry.id}\n" for entry in entries)
    told = await repository.git("cat-file", "--batch-check=%(objectsize)", text=ids)
    lines = told.decode().splitlines()
    if any(not line.isdigit() for line in lines):
        raise GitError(next(line for line in lines if not line.isdigit()))
    sizes = list(map(int, lines))
    for entry, size in zip(entries, sizes, strict=True):
        if size > MAX_BYTES:
            raise RefusedError(f"{entry.path} has {size} bytes, more than {MAX_BYTES}")
    if sum(sizes) > MAX_TOTAL_BYTES:
        raise RefusedError(f"its files have {sum(sizes)} bytes, more than {MAX_TOTAL_BYTES}")
    told = await repository.git("cat-file", "--batch", text=ids)
    files, at = [], 0
    for size in sizes:  # each after a line of its own, and before the end of a line
        at = told.index(b"\n", at) + 1
        files.append(told[at : at + size])
        at += size + 1
    return files


def _join(folder: str, path: str) -> str:
    return f"{folder}/{path}" if folder else path
