"""The manifest files under a directory, as the daemon, `validate` and `doctor` see them.

One function walks the directory and reads its files. What one entry raises is a flaw of that
entry, and only regular files are opened. A file that was not changed since the last walk is not
read again, and one whose bytes are the same is not parsed again.

Where a watch says which paths changed, every folder is listed all the same, but a file that was
there before and that no event names is not asked about: of 10,000 files that is most of a walk.

A walk may hang in any call of the file system, as on a mount whose server is gone, so it says
where it is; whoever waits for it judges how long that takes (`scan.py`).
"""

import errno
import os
import stat
import time
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from io import FileIO
from itertools import islice
from operator import attrgetter
from pathlib import Path

from reconciler.core.manifest import MAX_BYTES, printable
from reconciler.core.snapshot import ManifestFile, flawed, read_file

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 50_000
MAX_ENTRIES = 500_000
"""Names that are looked at; a directory with more is not one of manifests."""

STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Where a shell puts the output of a program, as in `validate <(kustomize build .)`."""

SETTLED_NS = 2_000_000_000
"""A file that changed within this time may change again without another time of change."""

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and the times of the last change of a file and of its inode."""


Node = tuple[int, int]
"""Device and inode of a folder."""


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
class _Walker:
    directory: str
    before: Walk | None
    blocked: frozenset[str]
    """Paths that do not answer."""
    progress: Progress
    named: frozenset[str] | None
    """Paths that changed since `before`; None: perhaps all."""
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
        todo = [("", names, self.is_known("", parent=self.named is not None))]
        while todo:
            relative, inside, known = todo.pop()
            for name in sorted(self.keep(relative, inside) if known else inside):
                found = self.entry(relative, name)
                if found is not None:
                    todo.append((*found, self.is_known(found[0], parent=known)))
        self.progress.answered()
        files = tuple(sorted(self.files, key=attrgetter("path")))
        empty_folders = tuple(self.empty_folders)
        return Walk(files, root, not names, empty_folders, self.folders, self.linked)

    def is_known(self, folder: str, *, parent: bool) -> bool:
        """True if a folder is the one of the last walk, and only named files in it changed."""
        if not parent or self.before is None or self.named is None:
            return False
        known = self.before.folders.get(folder)
        same = known is not None and known.node == self.folders[folder].node
        return same and folder.rstrip("/") not in self.named

    def keep(self, relative: str, names: list[str]) -> set[str]:
        """Take up the files of a known folder that did not change; returns the other names."""
        assert self.before is not None and self.named is not None  # noqa: S101, PT018  it is known
        before, listed = self.before.folders[relative], set(names)
        kept = self.folders[relative].read
        kept.update(before.read)
        changed = {p.removeprefix(relative) for p in self.named if p.startswith(relative)}
        for name in (kept.keys() - listed) | before.unsettled | changed:
            kept.pop(name, None)
        self.files.extend(read.file for read in kept.values())
        return listed - kept.keys()

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
            if not _is_gone(error, path):
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
        try:
            if self.enter(path, shown) is None:
                return None
            names = self.names(path)
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise
            if not _is_gone(error, path):
                self.add(flawed(shown, _unreadable(error)))
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
        if known is not None and known.settled and known.identity == _identity(about):
            here.read[name] = known
            return known.file
        try:
            identity, data = read_bytes(path, about)
        except OSError as error:
            return None if _is_gone(error, path) else flawed(shown, _unreadable(error))
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
        self.files.append(file)
        if len(self.files) > MAX_FILES:
            raise OSError(errno.EFBIG, f"it has more than {MAX_FILES} manifest files")


def walk(
    directory: str,
    before: Walk | None,
    blocked: frozenset[str],
    progress: Progress,
    named: frozenset[str] | None = None,
) -> Walk:
    """Read the manifests under `directory`.

    `before` is the last walk; paths in `blocked` are not asked about. `named` are paths relative to
    the directory: all that changed since `before`, as far as a watch knows; None: perhaps all.
    Raises `OSError` if the directory itself cannot be read, or is too large.
    """
    if before is None or before.linked or blocked:
        named = None
    return _Walker(directory, before, blocked, progress, named).walk()


def read_path(path: Path) -> ManifestFile:
    """One file that somebody named, read as a walk reads it."""
    try:
        if str(path).startswith(STREAMS):
            with path.open("rb") as file:
                return read_file(str(path), file.read(MAX_BYTES + 1))
        return read_file(str(path), read_bytes(str(path), path.stat())[1])
    except OSError as error:
        gone = _is_gone(error, str(path))
        words = f"cannot be read: {error.strerror}" if gone else _unreadable(error)
        return flawed(str(path), words)


def read_bytes(path: str, about: os.stat_result) -> tuple[Identity, bytes]:
    """A regular file, one byte more than a manifest may have at most. Raises `OSError`.

    What is no regular file is not even opened: that alone may block, or rewind a tape.
    """
    _check_regular(about)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with FileIO(handle) as file:
        about = os.fstat(handle)
        _check_regular(about)
        return _identity(about), b"".join(_pieces(file))


def _pieces(file: FileIO) -> Iterator[bytes]:
    left = MAX_BYTES + 1
    while left:
        piece: bytes | None = file.read(left)
        if piece is None:
            raise BlockingIOError(errno.EAGAIN, "nothing can be read from it now")
        if not piece:
            return
        left -= len(piece)
        yield piece


def _check_regular(about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        kind = KINDS.get(stat.S_IFMT(about.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file")


KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


def _identity(about: os.stat_result) -> Identity:
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def _is_gone(error: OSError, path: str) -> bool:
    """True if nothing has that name any more, not even a link."""
    return isinstance(error, FileNotFoundError | NotADirectoryError) and not os.path.lexists(path)


def _unreachable(shown: str, error: OSError, *, manifest: bool) -> ManifestFile:
    """What cannot even be looked at; it may have been a folder of manifests."""
    if manifest:
        return flawed(shown, _unreadable(error))
    if isinstance(error, FileNotFoundError):  # a link; many lead nowhere that concerns us
        return ManifestFile(shown + "/", ignored=("it is a link to nothing",), open_end=True)
    return flawed(shown + "/", _unreadable(error))


def _unreadable(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is a link to nothing"
    return f"cannot be read: {error.strerror}"


TURNS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Bidirectional classes of characters that show others in another order than they stand."""


def unfit_name(name: str) -> str | None:
    """Why a name cannot be shown, or None."""
    kinds = {unicodedata.category(character) for character in name}
    if "Cs" in kinds:  # how Python keeps bytes that it cannot decode
        return "its name is not UTF-8; rename it"
    turned = any(unicodedata.bidirectional(character) in TURNS for character in name)
    if turned or kinds & {"Cc", "Zl", "Zp"}:
        return "its name has control characters; rename it"
    return None
