"""Snapshots: the content of a manifest source at one moment, in one form for all sources.

A source yields snapshots; `read_file` parses one file. Nothing here depends on whether the bytes
came from a directory or from a commit.
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
"""Maximum number of errors listed for one file."""


@dataclass(frozen=True)
class Declared:
    """One valid document: the name, spec and line of a record."""

    name: str
    spec: LoadSpec
    line: int


@dataclass(frozen=True)
class ManifestFile:
    """One file: its declarations, or its errors.

    `ignored` describes the documents that are meant for other programs.
    """

    path: str
    """Relative to the source; with a trailing slash for a folder that cannot be read."""
    declared: tuple[Declared, ...] = ()
    flaws: tuple[Diagnostic, ...] = ()
    ignored: tuple[str, ...] = ()
    open_end: bool = False
    """True if nothing follows its last `---`, as in a file that is still being written."""

    @property
    def valid(self) -> bool:
        """True if it has no errors."""
        return not self.flaws

    @property
    def unfinished(self) -> bool:
        """True if it may still be being written: it is empty, or ends after `---`."""
        return self.valid and (self.open_end or not (self.declared or self.ignored))

    def covers(self, path: str | None) -> bool:
        """True if `path` is this file, or in this folder."""
        if path is None:
            return False
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))


@dataclass(frozen=True)
class Commit:
    """Commit of a repository that a snapshot shows, and the state of the newest one."""

    applied: str | None
    """Commit of the files in the snapshot; None: none was ever applied."""
    attempted: str | None = None
    """Newest commit seen."""
    problem: str | None = None
    """Error that prevents applying the newest commit or reaching the repository."""
    synced_at: datetime | None = None
    """Time of the repository's last response."""


@dataclass(frozen=True)
class Snapshot:
    """The files of a source. An unreadable source is unknown, which is not the same as empty."""

    source: str
    files: tuple[ManifestFile, ...] = ()
    unreadable: str | None = None
    """Error that prevents reading the source, or None."""
    empty: bool = False
    """True if it is readable and completely empty, as an unmounted volume would be."""
    empty_folders: tuple[str, ...] = ()
    """Completely empty subdirectories, with a trailing slash."""
    commit: Commit | None = None
    """Set for a source that has commits."""

    @property
    def problem(self) -> str | None:
        """Error that prevents following the source or its newest commit."""
        return self.unreadable or (self.commit.problem if self.commit is not None else None)


def read_file(path: str, data: bytes) -> ManifestFile:
    """Parse one file. A file with an error declares nothing.

    Any exception raised by parsing it is an error of this file only.
    """
    try:
        return _read_file(path, data)
    except ManifestError as error:
        return ManifestFile(path, flaws=(error.flaw,))
    except Exception as error:  # noqa: BLE001  a file must not keep others from being followed
        return flawed(path, f"cannot be read: {type(error).__name__}: {error}")


def flawed(path: str, message: str) -> ManifestFile:
    """A file that cannot be read, with the error."""
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
    """The apiVersion of a document that is meant for another program, or None.

    Documents of our group or of our kind are ours: an unknown version of them is an error.
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
