"""Snapshots of sources -> records: owners, take-over, duplicates, held removals.

A source's snapshot is absorbed as a whole by one function, whoever took it, so that a watch and a
rescan cannot disagree.

What was compared with the records before, and has not changed since, is not compared again: files
that are the same objects as in the last snapshot, and records that nobody touched. Without that
memory everything is compared, with the same outcome.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from reconciler.core.records import HTTP, Record
from reconciler.core.selection import SHOWN_NAMES, Selection, select
from reconciler.core.snapshot import Declared, ManifestFile, Snapshot

VANISHED_SECONDS = 2.0
"""A document that is gone this long was removed; editors, rsync and checkouts are quicker."""

EMPTY_SECONDS = 30.0
"""A directory that turned wholly empty is believed after this long."""

GUARDED_RECORDS = 4
"""What would unload more than half of at least so many is held until it is confirmed."""

COMPARISONS = 20
"""Names that are compared in the time that one upsert takes."""

NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Missing:
    """A record whose document vanished."""

    since: float
    """Monotonic time."""
    held_by: frozenset[str] = frozenset()
    """New files that cannot be believed: the document may have moved there."""
    file: ManifestFile | None = None
    """The file that declared it, as it was at `since`; None: it is not there any more."""


@dataclass(frozen=True)
class Compared:
    """What of a source was compared with the records, so that it need not be again."""

    source: str
    selection: Selection
    todo: tuple[str, ...] = ()
    """Names to compare again: they were not as declared."""
    gone: tuple[str, ...] = ()
    """Records of the source that it does not declare."""
    kept_by_others: Mapping[str, str] = field(default_factory=dict)
    """Why names that it declares are not followed."""


@dataclass(frozen=True)
class SourceState:
    """What must be remembered of a source between two of its snapshots."""

    files: tuple[ManifestFile, ...] = ()
    missing: Mapping[str, Missing] = field(default_factory=dict)
    compared: Compared | None = None
    """Only saves work."""

    def resumed(self) -> "SourceState":
        """After a while without a look: what is missing may have been back meanwhile."""
        held = {name: m for name, m in self.missing.items() if m.held_by}
        return replace(self, missing=held)


@dataclass(frozen=True)
class Absorbed:
    """What a snapshot changes."""

    upserts: tuple[Record, ...]
    removals: tuple[str, ...]
    memory: SourceState
    flagged: Mapping[str, str]
    """Why a name that the snapshot declares is not followed."""
    held: Mapping[str, str]
    """Why a name that the snapshot does not declare any more is kept."""
    not_selected: Mapping[str, str]
    """Why a name that the snapshot declares is not meant for this node."""
    check_at: float | None
    """When to absorb the same snapshot again, because time alone changes the outcome."""
    unconfirmed: frozenset[str] = frozenset()
    """Names that are held until somebody confirms that they are to go."""
    more: bool = False
    """True if there is more to compare: absorb it again once these are taken up. Nothing goes till
    then."""


def absorb(
    records: Mapping[str, Record],
    memory: SourceState,
    snapshot: Snapshot,
    now: float,
    at: datetime,
    labels: Mapping[str, str] = NO_LABELS,
    confirmed: frozenset[str] = frozenset(),
    limit: int | None = None,
    touched: Collection[str] | None = None,
    selection: Selection | None = None,
) -> Absorbed:
    """Fit the records to what a source says to a node with these labels.

    `now` is monotonic seconds, for grace times; `at` is the creation time of new records;
    `confirmed` are names of which somebody said that they are to go; `limit` is how many upserts
    there are at most, and bounds the comparisons, None: all; `touched` names every record that may
    have come, changed or gone since the call that returned `memory`, None: all may have;
    `selection` is what `select` makes of the snapshot and the selection in `memory`, None: it is
    made here.
    """
    if snapshot.unreadable is not None:
        return Absorbed((), (), memory, {}, {}, {}, None)
    before = memory.compared
    if before is None or before.source != snapshot.source:
        before, touched = Compared(snapshot.source, Selection(labels)), None
    if selection is None:
        selection = select(snapshot, labels, before.selection)
    if touched is None:
        touched = (*selection.followed, *records)
    upserts, compared, more = _compare(before, selection, records, touched, at, limit)
    if more:
        memory = replace(memory, compared=compared)
        return Absorbed(upserts, (), memory, {}, {}, {}, None, more=True)
    flagged = {**selection.flagged, **compared.kept_by_others}
    if not compared.gone:
        remembered = SourceState(snapshot.files, compared=compared)
        return Absorbed(upserts, (), remembered, flagged, {}, selection.not_selected, None)
    fates = _Fates(records, memory, snapshot, now, confirmed)
    for name in compared.gone:
        fates.judge(records[name])
    fates.hold_many()
    return Absorbed(
        upserts,
        tuple(fates.removals),
        SourceState(snapshot.files, fates.missing, compared),
        flagged,
        fates.held,
        selection.not_selected,
        min(fates.waiting.values(), default=None),
        frozenset(fates.unconfirmed),
    )


def _compare(
    before: Compared,
    selection: Selection,
    records: Mapping[str, Record],
    touched: Collection[str],
    at: datetime,
    limit: int | None,
) -> tuple[tuple[Record, ...], Compared, bool]:
    """The records that are not as declared, at most `limit`; what is known from here on; and
    whether that is not all.
    """
    source = before.source
    names = tuple(dict.fromkeys((*before.todo, *selection.changed, *touched)))
    upserts: list[Record] = []
    gone = dict.fromkeys(before.gone)
    kept_by_others = dict(before.kept_by_others)
    left: tuple[str, ...] = ()
    for number, name in enumerate(names):
        if limit is not None and (len(upserts) == limit or number == COMPARISONS * limit):
            left = names[number:]
            break
        current, placed = records.get(name), selection.followed.get(name)
        kept_by_others.pop(name, None)
        gone.pop(name, None)
        if placed is None:
            if current is not None and current.owner == source and name not in selection.flagged:
                gone[name] = None
        elif current is not None and current.owner not in (HTTP, source):
            kept_by_others[name] = f"declared by {current.place} already, which keeps it"
        elif current is None or not _agrees(current, source, *placed):
            upserts.append(_upsert(current, source, *placed, at))
    todo = (*left, *(record.name for record in upserts))
    more = bool(left) or len(upserts) == limit
    return tuple(upserts), Compared(source, selection, todo, tuple(gone), kept_by_others), more


class _Fates:
    """What becomes of the records whose documents vanished.

    Removals are slower than additions, and a mistake is no removal: what a file that is still
    there stops declaring is kept unless a readable document of it says so.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        memory: SourceState,
        snapshot: Snapshot,
        now: float,
        confirmed: frozenset[str],
    ) -> None:
        self.missing: dict[str, Missing] = {}
        self.held: dict[str, str] = {}
        self.unconfirmed: set[str] = set()
        self.removals: list[str] = []
        self.waiting: dict[str, float] = {}
        """When they are removed."""
        self._records, self._snapshot, self._before = records, snapshot, memory.missing
        self._now, self._confirmed = now, confirmed
        self._files = {f.path: f for f in snapshot.files}
        self._folders = [f for f in snapshot.files if f.path.endswith("/")]
        self._doubtful = frozenset(f.path for f in snapshot.files if not f.valid or f.unfinished)
        self._appeared = frozenset(
            path
            for path in self._doubtful - {f.path for f in memory.files}
            # After a start every file is new; then one that is only empty says nothing.
            if memory.files or not self._files[path].valid
        )

    def judge(self, record: Record) -> None:
        """Say what becomes of a record that no document declares."""
        file = self._file(record)
        if file is not None and not file.valid:
            return  # it has not vanished: its file cannot be believed
        missing = self._missing(record, file)
        if missing.held_by:
            self.missing[record.name] = missing
            self.held[record.name] = _held_by(missing.held_by)
            return
        sure = self._snapshot.commit is not None or record.name in self._confirmed
        why = _in_doubt(file) if file is not None and not sure else None
        if why is not None:
            self.missing[record.name] = missing
            self.held[record.name] = why
            self.unconfirmed.add(record.name)
            return
        due = missing.since + (0.0 if sure else self._grace(record, file))
        if self._now < due:
            self.missing[record.name] = missing
            self.waiting[record.name] = due
        else:
            self.removals.append(record.name)

    def hold_many(self) -> None:
        """Hold what would go if that is too much at once to be believed."""
        if self._snapshot.commit is not None:
            return  # a commit is guarded as a whole
        going = {*self.removals, *self.waiting} - self._confirmed
        why = _too_many(self._records, self._snapshot.source, going)
        if why is None:
            return
        held = [name for name in self.removals if name in going]
        self.removals = [name for name in self.removals if name not in going]
        for name in held:
            self.missing[name] = self._missing(self._records[name], self._file(self._records[name]))
            self.held[name] = f"{why}; if that is meant, `reconciler confirm`"
            self.unconfirmed.add(name)

    def _file(self, record: Record) -> ManifestFile | None:
        """The file that declared it, or the folder of that file, if it cannot be read."""
        file = self._files.get(record.file or "")
        return file or next((f for f in self._folders if f.covers(record.file)), None)

    def _missing(self, record: Record, file: ManifestFile | None) -> Missing:
        before = self._before.get(record.name)
        if before is None:
            return Missing(self._now, self._appeared, file)
        held_by = before.held_by & self._doubtful
        released = before.held_by and not held_by
        if released or before.file != file:  # it may be written at this moment
            return Missing(self._now, held_by, file)
        return replace(before, held_by=held_by)

    def _grace(self, record: Record, file: ManifestFile | None) -> float:
        """Seconds for which it must be gone."""
        folder = (record.file or "").rpartition("/")[0] + "/"
        if self._snapshot.empty or folder in self._snapshot.empty_folders:
            return EMPTY_SECONDS
        if file is not None and all(d.line < (record.line or 0) for d in file.declared):
            return EMPTY_SECONDS  # its end is gone, as of one that is written slowly
        return VANISHED_SECONDS


def _in_doubt(file: ManifestFile) -> str | None:
    """Why a file that is there does not say that it stopped declaring something, or None."""
    if not file.declared:
        what = "declares nothing any more" if file.ignored else "is empty"
        fix = "delete it, or `reconciler confirm`"
        return f"{file.path} is there and {what}; if that is meant, {fix}"
    if file.open_end:
        fix = "remove that line, or `reconciler confirm`"
        return f"{file.path} ends after `---`, as if it were cut off; if that is meant, {fix}"
    return None


def guard(records: Mapping[str, Record], source: str, selection: Selection) -> str | None:
    """Why a commit should not be followed before somebody confirms it, or None."""
    stay = {n for n, (_, document) in selection.followed.items() if not document.spec.suspend}
    mine = {name for name, record in records.items() if record.owner == source}
    return _too_many(records, source, mine - stay - selection.flagged.keys())


def _too_many(records: Mapping[str, Record], source: str, going: set[str]) -> str | None:
    """Why so many records should not go at once, or None.

    What counts is what has been loaded here and is still wanted, whether or not it is loaded at
    this moment: after a restart nothing is.
    """
    if len(going) < GUARDED_RECORDS // 2:
        return None
    loaded = sorted(
        r.name
        for r in records.values()
        if r.owner == source and r.last_good is not None and not r.spec.suspend
    )
    lost = [name for name in loaded if name in going]
    if len(loaded) < GUARDED_RECORDS or 2 * len(lost) <= len(loaded):
        return None
    names = ", ".join(lost[:SHOWN_NAMES]) + (", ..." if len(lost) > SHOWN_NAMES else "")
    return f"it would unload {len(lost)} of {len(loaded)} loaded records: {names}"


def _held_by(files: frozenset[str]) -> str:
    shown = sorted(files)
    names = ", ".join(shown[:SHOWN_NAMES]) + (", ..." if len(shown) > SHOWN_NAMES else "")
    return (
        f"its document vanished as {names} appeared, which cannot be believed; "
        "it goes once that is fixed or removed"
    )


def _agrees(current: Record, source: str, file: ManifestFile, document: Declared) -> bool:
    """True if the record is as the document declares it: of most, at most looks."""
    return (
        current.owner == source
        and current.line == document.line
        and current.file == file.path
        and not current.provisional
        and (current.spec is document.spec or current.spec == document.spec)
    )


def _upsert(
    current: Record | None, source: str, file: ManifestFile, document: Declared, at: datetime
) -> Record:
    """The record as a document declares it."""
    if current is None:
        return Record(document.name, source, document.spec, at, file=file.path, line=document.line)
    return replace(
        current.with_spec(document.spec),
        owner=source,
        file=file.path,
        line=document.line,
        provisional=False,
    )
