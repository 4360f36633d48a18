"""The manifest files under a directory, as the daemon, `validate` and `doctor` see them.

One function walks the directory and reads its files. What one entry raises is a flaw of that
entry. A file that was not changed since the last walk is not read again, and one whose bytes are
the same is not parsed again.

A walk may hang in any call of the file system, as on a mount whose server is gone, so it says
where it is; whoever waits for it judges how long that takes (`scan.py`).
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
from reconciler.sources.files import (
    MAX_ENTRIES,
    MAX_FILES,
    SUFFIXES,
    Identity,
    identity_of,
    is_gone,
    read_bytes,
    too_many,
    unfit_name,
    unreadable,
)

SETTLED_NS = 2_000_000_000
"""A file that changed within this time may change again without another time of change."""

Node = tuple[int, int]
"""Device and inode of a folder."""

PATH = attrgetter("path")
"""What files are sorted by."""


@dataclass(frozen=True)
class Read:
    """A file that was read once."""

    identity: Identity
    settled: bool
    """True if the identity would be another one after a change."""
    digest: bytes
    file: ManifestFile


@dataclass(frozen=True)
class Folder:
    """A folder that was listed, for the next walk. Filled while it is walked."""

    node: Node
    read: dict[str, Read] = field(default_factory=dict)
    """By the name in the folder."""
    unsettled: set[str] = field(default_factory=set)
    """Names in it that are to be read again."""


@dataclass(frozen=True)
class Walk:
    """What a walk saw."""

    files: tuple[ManifestFile, ...]
    root: Node
    empty: bool
    """True if it holds nothing at all."""
    empty_folders: tuple[str, ...]
    """Subdirectories that hold nothing at all, with a slash at the end."""
    folders: Mapping[str, Folder]
    """All that were entered, with a slash at the end; the directory itself is empty."""
    linked: bool
    """True if something in it has two names, so that a change may be reported under another one."""


@dataclass
class Progress:
    """Where a walk is: set by its thread, read by whoever waits for it."""

    path: str | None = None
    """The path that the file system is asked about; None: it is not asked."""
    since: float = 0.0
    """Monotonic time."""

    def ask(self, path: str) -> None:
        """Note that the file system is asked about `path` from now on."""
        self.since = time.monotonic()
        self.path = path

    def answered(self) -> None:
        """Note that it answered."""
        self.path = None


@dataclass
class Walker:
    """One walk over everything."""

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
        """Raises `OSError` if the directory itself cannot be read, or is too large."""
        root = self.enter(self.directory, "")
        assert root is not None  # noqa: S101  nothing was seen yet
        names = self.names(self.directory)
        self.walk_from([("", names)])
        files = tuple(sorted(self.files, key=PATH))
        empty_folders = tuple(sorted(self.empty_folders))
        return Walk(files, root, not names, empty_folders, self.folders, self.linked)

    def walk_from(self, todo: list[tuple[str, list[str]]]) -> None:
        """Take up the names in folders, and all that is below."""
        while todo:
            relative, inside = todo.pop()
            for name in sorted(inside):
                found = self.entry(relative, name)
                if found is not None:
                    todo.append(found)
        self.progress.answered()

    def enter(self, path: str, shown: str) -> Node | None:
        """Enter a folder; None if it was entered before, by another link."""
        self.ask(path)
        about = os.stat(path)  # noqa: PTH116  many thousands of paths
        identity = (about.st_dev, about.st_ino)
        if identity in self.seen:
            return None
        self.seen.add(identity)
        self.folders[shown] = Folder(identity)
        return identity

    def names(self, path: str) -> list[str]:
        """The names in a folder. Raises `OSError`."""
        self.ask(path)
        with os.scandir(path) as found:
            entries = list(islice(found, MAX_ENTRIES + 1 - self.entries))
        self.entries += len(entries)
        if self.entries > MAX_ENTRIES:
            raise OSError(errno.EFBIG, f"it has more than {MAX_ENTRIES} entries")
        self.linked = self.linked or any(entry.is_symlink() for entry in entries)
        return [entry.name for entry in entries]

    def ask(self, path: str) -> None:
        """Raises `TimeoutError` for a path that is known not to answer."""
        if path in self.blocked:
            raise TimeoutError(errno.ETIMEDOUT, "the file system does not answer")
        self.progress.ask(path)

    def entry(self, relative: str, name: str) -> tuple[str, list[str]] | None:
        """Take up one name; a folder is returned with its names."""
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
        """A folder with its names, unless it was entered before or cannot be read."""
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
        """Read a file, unless it is as it was; None if it was removed meanwhile."""
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
            time.sleep(0)  # lets the event loop run, which waits for the interpreter meanwhile
        else:
            file = known.file
        settled = time.time_ns() - max(identity[3], identity[4]) > SETTLED_NS
        here.read[name] = Read(identity, settled, digest, file)
        if not settled:
            here.unsettled.add(name)
        return file

    def add(self, file: ManifestFile) -> None:
        """Take up what is at one path."""
        self.files.append(file)
        if len(self.files) > MAX_FILES:
            raise too_many(MAX_FILES)


def _unreachable(shown: str, error: OSError, *, manifest: bool) -> ManifestFile:
    """What cannot even be looked at; it may have been a folder of manifests."""
    if manifest:
        return flawed(shown, unreadable(error))
    if isinstance(error, FileNotFoundError):  # a link; many lead nowhere that concerns us
        return ManifestFile(shown + "/", ignored=("it is a link to nothing",), open_end=True)
    return flawed(shown + "/", unreadable(error))
