"""What a source of manifests said at one moment: the form in which every source speaks.

A source yields snapshots; `documents` reads one file of it. Nothing here knows whether the
bytes came from a directory or from a commit.
"""

from dataclasses import dataclass
from datetime import datetime

from reconciler.core.manifest import Document, Flaw, ManifestError, parse
from reconciler.core.records import LoadSpec
from reconciler.core.schema import check, load_spec

API_VERSION = "reconciler/v1"
KIND = "ModelInstance"


@dataclass(frozen=True)
class Declared:
    """One valid document: a record's wish and where it stands."""

    name: str
    spec: LoadSpec
    line: int


@dataclass(frozen=True)
class ManifestFile:
    """One file: what it declares, or why it does not.

    `ignored` says in words which documents belong to somebody else.
    """

    path: str
    """Relative to the source."""
    declared: tuple[Declared, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether all of it can be believed."""
        return not self.flaws


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
    """Whether it is readable and holds nothing at all, as an unmounted volume would."""
    commit: Commit | None = None
    """Of a source that has commits."""

    @property
    def problem(self) -> str | None:
        """Why the source, or its newest commit, is not followed."""
        return self.unreadable or (self.commit.problem if self.commit is not None else None)


def read_file(path: str, data: bytes) -> ManifestFile:
    """What one file declares. A file with one flaw declares nothing."""
    try:
        documents = parse(data)
    except ManifestError as error:
        return ManifestFile(path, flaws=(error.flaw,))
    declared: list[Declared] = []
    flaws: list[Flaw] = []
    ignored: list[str] = []
    for document in documents:
        stranger = _stranger(document)
        if stranger is not None:
            line = document.position(()).line
            ignored.append(f"line {line}: apiVersion is {stranger}, not {API_VERSION}")
            continue
        mistakes = check("manifest", document.value)
        flaws += [Flaw(m.message, document.position(m.path), m.param) for m in mistakes]
        if not mistakes:
            line = document.position(()).line
            name = document.value["metadata"]["name"]
            declared.append(Declared(name, load_spec(document.value["spec"]), line))
    if flaws:
        return ManifestFile(path, flaws=tuple(flaws), ignored=tuple(ignored))
    return ManifestFile(path, tuple(declared), ignored=tuple(ignored))


def _stranger(document: Document) -> str | None:
    """The apiVersion of a document that is meant for another program."""
    value = document.value
    if not isinstance(value, dict):
        return None
    version = value.get("apiVersion")
    return version if isinstance(version, str) and version != API_VERSION else None
