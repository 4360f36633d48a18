"""What a source of manifests said at one moment: the form in which every source speaks.

A source yields snapshots; `documents` reads one file of it. Nothing here knows whether the
bytes came from a directory or from a commit.
"""

from dataclasses import dataclass
from datetime import datetime

from reconciler.core.manifest import (
    Diagnostic,
    Document,
    ManifestError,
    SourceLocation,
    parse_file,
    printable,
)
from reconciler.core.records import LoadSpec
from reconciler.core.schema import check, load_spec

GROUP = "reconciler"
API_VERSION = f"{GROUP}/v1"
KIND = "ModelInstance"

MAX_FLAWS = 20
"""Of one file; the others are only counted as more."""


@dataclass(frozen=True)
class Declared:
    """One valid document: a record's spec and where it stands."""

    name: str
    spec: LoadSpec
    line: int


@dataclass(frozen=True)
class ManifestFile:
    """One file: what it declares, or why it does not.

    `ignored` says in words which documents belong to somebody else.
    """

    path: str
    """Relative to the source; of a folder that cannot be read, with a slash at its end."""
    declared: tuple[Declared, ...] = ()
    flaws: tuple[Diagnostic, ...] = ()
    ignored: tuple[str, ...] = ()
    open_end: bool = False
    """True if nothing follows its last `---`, as while it is being written."""

    @property
    def valid(self) -> bool:
        """True if all of it can be believed."""
        return not self.flaws

    @property
    def unfinished(self) -> bool:
        """True if it may be in the middle of being written: it is empty, or cut off at `---`."""
        return self.valid and (self.open_end or not (self.declared or self.ignored))

    def covers(self, path: str | None) -> bool:
        """True if `path` is this file, or in this folder."""
        if path is None:
            return False
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))


@dataclass(frozen=True)
class Commit:
    """Of a repository: which one a snapshot is of, and what of the newest one is not so."""

    applied: str | None
    """The commit whose files these are; None: none was ever taken up."""
    attempted: str | None = None
    """The newest one that was seen."""
    problem: str | None = None
    """Why the newest one is not applied, or why the repository cannot be asked."""
    synced_at: datetime | None = None
    """When the repository last answered."""


@dataclass(frozen=True)
class Snapshot:
    """All files of a source. Unreadable: nothing is known, which is not the same as no files."""

    source: str
    files: tuple[ManifestFile, ...] = ()
    unreadable: str | None = None
    """Why the source could not be read, or None."""
    empty: bool = False
    """True if it is readable and holds nothing at all, as an unmounted volume would."""
    empty_folders: tuple[str, ...] = ()
    """Subdirectories that hold nothing at all, with a slash at the end."""
    commit: Commit | None = None
    """Of a source that has commits."""

    @property
    def problem(self) -> str | None:
        """Why the source, or its newest commit, is not followed."""
        return self.unreadable or (self.commit.problem if self.commit is not None else None)


def read_file(path: str, data: bytes) -> ManifestFile:
    """Read what one file declares. A file with one flaw declares nothing.

    Whatever its reading raises is a flaw of this file and of no other.
    """
    try:
        return _read_file(path, data)
    except ManifestError as error:
        return ManifestFile(path, flaws=(error.flaw,))
    except Exception as error:  # noqa: BLE001  a file must not keep others from being followed
        return flawed(path, f"cannot be read: {type(error).__name__}: {error}")


def flawed(path: str, message: str) -> ManifestFile:
    """A file of which nothing can be read, and why."""
    return ManifestFile(path, flaws=(Diagnostic(printable(message), SourceLocation(1, 1)),))


def _read_file(path: str, data: bytes) -> ManifestFile:
    parsed = parse_file(data)
    declared: list[Declared] = []
    flaws: list[Diagnostic] = []
    ignored: list[str] = []
    for document in parsed.documents:
        line = document.position(()).line
        version = _foreign_version(document)
        if version is not None:
            ignored.append(f"line {line}: apiVersion is {printable(version)}, not {API_VERSION}")
            continue
        mistakes = check("manifest", document.value)
        flaws += [
            Diagnostic(printable(m.message), document.position(m.path), printable(m.param))
            for m in mistakes
        ]
        if not mistakes:
            name = document.value["metadata"]["name"]
            declared.append(Declared(name, load_spec(document.value["spec"]), line))
        if len(flaws) >= MAX_FLAWS:
            words = f"{MAX_FLAWS} errors are listed; there may be more"
            flaws[MAX_FLAWS:] = [Diagnostic(words, flaws[MAX_FLAWS - 1].position)]
            break
    if flaws:
        return ManifestFile(path, flaws=tuple(flaws), ignored=tuple(ignored))
    return ManifestFile(path, tuple(declared), (), tuple(ignored), parsed.open_end)


def _foreign_version(document: Document) -> str | None:
    """The apiVersion of a document that is meant for another program.

    Ours are all of our group and all of our kind: an unknown version of them is a mistake, not
    somebody else's document.
    """
    value = document.value
    if not isinstance(value, dict):
        return None
    version, kind = value.get("apiVersion"), value.get("kind")
    if not isinstance(version, str) or version.partition("/")[0].lower() == GROUP:
        return None
    if isinstance(kind, str) and kind.lower() == KIND.lower():
        return None
    return version
