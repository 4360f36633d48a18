"""Walks the manifest files under a directory, for the daemon, `validate` and `doctor`.

One function walks the directory and reads its files. An error at one entry becomes a diagnostic of
that entry. Files unchanged since the last walk are not read again, and files with unchanged
content are not parsed again.

A walk may hang in any call of the file system, such as on a mount whose server is gone. It
therefore publishes its progress, and its caller enforces the time limit (`scan.py`).
"""

import errno
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from operator import attrgetter

from reconciler.core.manifest import printable
from reconciler.core.snapshot import ManifestFile, flawed, read_file
from reconciler.host.names import unfit_name
from reconciler.sources.files import (
    MAX_ENTRIES,
    MAX_FILES,
    SUFFIXES,
    Identity,
    identity_of,
    is_gone,
    read_bytes,
    too_many,
    unreadable,
)

SETTLED_NS = 2_000_000_000
"""Age below which a change might not be visible in a file's modification time."""

Node = tuple[int, int]
"""Device and inode of a folder."""

PATH = attrgetter("path")
"""Sort key of files."""


@dataclass(frozen=True)
class Read:
    """A file read by a walk."""

    identity: Identity
    settled: bool
    """True if any further change would change the identity."""
    digest: bytes
    file: ManifestFile


@dataclass(frozen=True)
class Folder:
    """A folder listed by a walk, kept for the next one. Filled during the walk."""

    node: Node
    read: dict[str, Read] = field(default_factory=dict)
    """Files read, by name in the folder."""
    unsettled: set[str] = field(default_factory=set)
    """Names of files that must be read again."""


@dataclass(frozen=True)
class Walk:
    """Result of a walk."""

    files: tuple[ManifestFile, ...]
    root: Node
    empty: bool
    """True if the directory has no entries."""
    empty_folders: tuple[str, ...]
    """Subdirectories without entries, with a trailing slash."""
    folders: Mapping[str, Folder]
    """Walked folders by path with a trailing slash; the path of the directory itself is empty."""
    linked: bool
    """True if a file has two names, so that its change may be reported under either."""


@dataclass
class Progress:
    """Progress of a walk: set by its thread, read by its waiter."""

    path: str | None = None
    """Path of the current call of the file system; None between calls."""
    since: float = 0.0
    """Monotonic time of its start."""

    def ask(self, path: str) -> None:
        """Record the start of a file-system call for `path`."""
        self.since = time.monotonic()
        self.path = path

    def answered(self) -> None:
        """Record its end."""
        self.path = None


@dataclass
class Walker:
    """A full walk."""

    directory: str
    before: Walk | None
    blocked: frozenset[str]
    """Paths that do not answer."""
    progress: Progress
    files: list[ManifestFile] = field(default_factory=list)
    empty_folders: list[str] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)
    seen: set[Node] = field(default_factory=set)
    linked: bool = False
    entries: int = 0

    def walk(self) -> Walk:
        """Walk the directory. Raises `OSError` if it cannot be read itself, or is too large."""
        root = self.enter(self.directory, "")
        assert root is not None  # noqa: S101  nothing was seen yet
        names = self.names(self.directory)
        self.walk_from([("", names)])
        files = tuple(sorted(self.files, key=PATH))
        empty_folders = tuple(sorted(self.empty_folders))
        return Walk(files, root, not names, empty_folders, self.folders, self.linked)

    def walk_from(self, todo: list[tuple[str, list[str]]]) -> None:
        """Walk names in folders, and everything below them."""
        while todo:
            relative, inside = todo.pop()
            for name in sorted(inside):
                found = self.entry(relative, name)
                if found is not None:
                    todo.append(found)
        self.progress.answered()

    def enter(self, path: str, shown: str) -> Node | None:
        """Enter a folder; None if it was already entered through another link."""
        self.ask(path)
        about = os.stat(path)  # noqa: PTH116  many thousands of paths
        identity = (about.st_dev, about.st_ino)
        if identity in self.seen:
            return None
        self.seen.add(identity)
        self.folders[shown] = Folder(identity)
        return identity

    def names(self, path: str) -> list[str]:
        """List the names in a folder. Raises `OSError`."""
        self.ask(path)
        with os.scandir(path) as found:
            entries = list(islice(found, MAX_ENTRIES + 1 - self.entries))
        self.entries += len(entries)
        if self.entries > MAX_ENTRIES:
            raise OSError(errno.EFBIG, f"it has more than {MAX_ENTRIES} entries")
        self.linked = self.linked or any(entry.is_symlink() for entry in entries)
        return [entry.name for entry in entries]

    def ask(self, path: str) -> None:
        """Record a file-system call. Raises `TimeoutError` for a path known not to answer."""
        if path in self.blocked:
            raise TimeoutError(errno.ETIMEDOUT, "the file system does not answer")
        self.progress.ask(path)

    def entry(self, relative: str, name: str) -> tuple[str, list[str]] | None:
        """Process one name; a folder is returned with its names."""
        manifest = name.endswith(SUFFIXES)
        if name.startswith("."):
            return None
        path, shown = f"{self.directory}/{relative}{name}", relative + name
        try:
            self.ask(path)
            about = os.stat(path)  # noqa: PTH116
        except OSError as error:
            if not is_gone(error, path):
                self.add(_unreachable(printable(shown), error, manifest=manifest))
            return None
        if not (manifest or stat.S_ISDIR(about.st_mode)):
            return None
        if (why := unfit_name(name)) is not None:
            self.add(flawed(printable(shown), why))
        elif not stat.S_ISDIR(about.st_mode):
            if (file := self.file(path, relative, name, about)) is not None:
                self.add(file)
        elif manifest:
            self.add(flawed(shown, "is a directory, not a file; rename one of them"))
        else:
            return self.folder(path, shown + "/")
        return None

    def folder(self, path: str, shown: str) -> tuple[str, list[str]] | None:
        """Enter and list a folder; None if it was already entered or cannot be read."""
        try:
            if self.enter(path, shown) is None:
                return None
            names = self.names(path)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise
            if not is_gone(error, path):
                self.add(flawed(shown, unreadable(error)))
            return None
        if not names:
            self.empty_folders.append(shown)
        return shown, names

    def file(
        self, path: str, relative: str, name: str, about: os.stat_result
    ) -> ManifestFile | None:
        """Read a file unless it is unchanged; None if it was removed meanwhile."""
        self.linked |= about.st_nlink > 1
        here, shown = self.folders[relative], relative + name
        before = self.before.folders.get(relative) if self.before is not None else None
        known = before.read.get(name) if before is not None else None
        if known is not None and known.settled and known.identity == identity_of(about):
            here.read[name] = known
            return known.file
        try:
            identity, data = read_bytes(path, about)
        except OSError as error:
            return None if is_gone(error, path) else flawed(shown, unreadable(error))
        self.progress.answered()
        digest = blake2b(data).digest()
        changed = known is None or known.digest != digest
        if changed or known is None:
            file = read_file(shown, data)
            time.sleep(0)  # yields the interpreter lock to the event loop
        else:
            file = known.file
        settled = time.time_ns() - max(identity[3], identity[4]) > SETTLED_NS
        here.read[name] = Read(identity, settled, digest, file)
        if not settled:
            here.unsettled.add(name)
        return file

    def add(self, file: ManifestFile) -> None:
        """Add the result for one path."""
        self.files.append(file)
        if len(self.files) > MAX_FILES:
            raise too_many(MAX_FILES)


def _unreachable(shown: str, error: OSError, *, manifest: bool) -> ManifestFile:
    """Result for an inaccessible path, which may have been a folder of manifests."""
    if manifest:
        return flawed(shown, unreadable(error))
    if isinstance(error, FileNotFoundError):  # a broken link; most of them are irrelevant here
        return ManifestFile(shown + "/", ignored=("it is a broken link",), open_end=True)
    return flawed(shown + "/", unreadable(error))
