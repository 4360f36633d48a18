"""Snapshots of sources -> records: owners, take-over, duplicates, held removals.

One function absorbs a source's snapshot as a whole, for a watch and for a rescan, so that the two
cannot disagree.

The comparison with the records is incremental: files that are the same objects as in the last
snapshot, and records that have not been touched since, are not compared again. Without the state
of the last comparison everything is compared, with the same outcome.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from reconciler.core.records import HTTP, Record
from reconciler.core.selection import SHOWN_NAMES, Selection, select
from reconciler.core.snapshot import Declared, ManifestFile, Snapshot

VANISHED_SECONDS = 2.0
"""A document missing for this long was removed; editors, rsync and checkouts are quicker."""

EMPTY_SECONDS = 30.0
"""A directory that became completely empty counts as empty after this time."""

GUARDED_RECORDS = 4
"""A change that unloads more than half of at least this many records needs confirmation."""

COMPARISONS = 20
"""Number of names compared in the time of one upsert."""

NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Missing:
    """A record whose document vanished."""

    since: float
    """Monotonic seconds."""
    held_by: frozenset[str] = frozenset()
    """New files that are invalid or unfinished: the document may have moved there."""
    file: ManifestFile | None = None
    """The file that declared it, as of `since`; None: the file no longer exists."""


@dataclass(frozen=True)
class Compared:
    """State of the last comparison of a source with the records."""

    source: str
    selection: Selection
    todo: tuple[str, ...] = ()
    """Names to compare again, because they differed from their declaration."""
    gone: tuple[str, ...] = ()
    """Records of the source that it does not declare."""
    kept_by_others: Mapping[str, str] = field(default_factory=dict)
    """Declared names that another owner keeps, with the reason."""


@dataclass(frozen=True)
class SourceState:
    """State of a source that is kept between two snapshots."""

    files: tuple[ManifestFile, ...] = ()
    missing: Mapping[str, Missing] = field(default_factory=dict)
    compared: Compared | None = None
    """An optimization: the outcome is the same without it."""

    def resumed(self) -> "SourceState":
        """The state after a pause in reading: missing documents may have been back meanwhile."""
        held = {name: m for name, m in self.missing.items() if m.held_by}
        return replace(self, missing=held)


@dataclass(frozen=True)
class Absorbed:
    """Changes that result from a snapshot."""

    upserts: tuple[Record, ...]
    removals: tuple[str, ...]
    memory: SourceState
    flagged: Mapping[str, str]
    """Names that the snapshot declares and that are not followed, with the reason."""
    held: Mapping[str, str]
    """Names that the snapshot no longer declares and that are kept, with the reason."""
    not_selected: Mapping[str, str]
    """Names that the snapshot declares for other nodes only, with the reason."""
    check_at: float | None
    """Monotonic time at which absorbing the same snapshot again has another outcome."""
    unconfirmed: frozenset[str] = frozenset()
    """Names held until their removal is confirmed."""
    more: bool = False
    """True if there is more to compare: absorb again after these upserts. Nothing is removed until
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
    """Compute the changes that a source's snapshot requires on a node with these labels.

    `now` is monotonic seconds, for grace periods; `at` is the creation time of new records;
    `confirmed` holds names whose removal is confirmed; `limit` is the maximum number of upserts,
    and bounds the comparisons, None: no limit; `touched` names every record that may have been
    added, changed or removed since the call that returned `memory`, None: any record may have been;
    `selection` is the result of `select` for the snapshot and the selection in `memory`, None: it
    is computed here.
    """
    if snapshot.unreadable is not None:
        return Absorbed((), (), memory, {}, {}, {}, None)
    before = memory.compared
    if before is None or before.source != snapshot.source:
        before, touched = Compared(snapshot.source, Selection(labels)), None
    if selection is None:
        selection = select(snapshot, labels, before.selection)
    if touched is None:
        touched = (*selection.followed, *records, *before.gone)
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
    """Records that differ from their declaration, at most `limit`; the new state; and True if
    there is more to compare.
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
            kept_by_others[name] = f"already declared by {current.place}, which keeps it"
        elif current is None or not _agrees(current, source, *placed):
            upserts.append(_upsert(current, source, *placed, at))
    todo = (*left, *(record.name for record in upserts))
    more = bool(left) or len(upserts) == limit
    return tuple(upserts), Compared(source, selection, todo, tuple(gone), kept_by_others), more


class _Fates:
    """Decisions about records whose documents vanished: remove, wait or hold.

    Removals are slower than additions, and an error is not a removal: a record that an existing
    file stops declaring is held unless the file is valid and declares something else.
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
        """Removal times by name; monotonic seconds."""
        self._records, self._snapshot, self._before = records, snapshot, memory.missing
        self._now, self._confirmed = now, confirmed
        self._files = {f.path: f for f in snapshot.files}
        self._folders = [f for f in snapshot.files if f.path.endswith("/")]
        self._doubtful = frozenset(f.path for f in snapshot.files if not f.valid or f.unfinished)
        self._appeared = frozenset(
            path
            for path in self._doubtful - {f.path for f in memory.files}
            # After a start every file is new; then a file that is only empty is no evidence.
            if memory.files or not self._files[path].valid
        )

    def judge(self, record: Record) -> None:
        """Decide about a record that no document declares."""
        file = self._file(record)
        if file is not None and not file.valid:
            return  # not evidence of removal: its file is invalid
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
        """Hold the removals if there are too many at once."""
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
            self.held[name] = f"{why}; if this is intended, run `reconciler confirm`"
            self.unconfirmed.add(name)

    def _file(self, record: Record) -> ManifestFile | None:
        """The file that declared the record, or the unreadable folder that contains it."""
        file = self._files.get(record.file or "")
        return file or next((f for f in self._folders if f.covers(record.file)), None)

    def _missing(self, record: Record, file: ManifestFile | None) -> Missing:
        before = self._before.get(record.name)
        if before is None:
            return Missing(self._now, self._appeared, file)
        held_by = before.held_by & self._doubtful
        released = before.held_by and not held_by
        if released or before.file != file:  # it may still be being written
            return Missing(self._now, held_by, file)
        return replace(before, held_by=held_by)

    def _grace(self, record: Record, file: ManifestFile | None) -> float:
        """Seconds for which its document must be missing."""
        folder = (record.file or "").rpartition("/")[0] + "/"
        if self._snapshot.empty or folder in self._snapshot.empty_folders:
            return EMPTY_SECONDS
        if file is not None and all(d.line < (record.line or 0) for d in file.declared):
            return EMPTY_SECONDS  # its end is missing, as if it is being written slowly
        return VANISHED_SECONDS


def _in_doubt(file: ManifestFile) -> str | None:
    """Reason not to trust that an existing file stopped declaring a record, or None."""
    if not file.declared:
        what = "no longer declares anything" if file.ignored else "is empty"
        fix = "delete it, or run `reconciler confirm`"
        return f"{file.path} exists but {what}; if this is intended, {fix}"
    if file.open_end:
        fix = "remove that line, or run `reconciler confirm`"
        return f"{file.path} ends after `---`, as if truncated; if this is intended, {fix}"
    return None


def guard(records: Mapping[str, Record], source: str, selection: Selection) -> str | None:
    """Reason to hold a commit until it is confirmed, or None."""
    stay = {n for n, (_, document) in selection.followed.items() if not document.spec.suspend}
    mine = {name for name, record in records.items() if record.owner == source}
    return _too_many(records, source, mine - stay - selection.flagged.keys())


def _too_many(records: Mapping[str, Record], source: str, going: set[str]) -> str | None:
    """Reason not to remove so many records at once, or None.

    A record counts if it has ever been loaded here and is still wanted, even if it is not loaded
    at the moment: after a restart none is.
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
        f"its document vanished when {names} appeared, invalid or unfinished; "
        "the record is removed once that is fixed or deleted"
    )


def _agrees(current: Record, source: str, file: ManifestFile, document: Declared) -> bool:
    """True if the record is as the document declares it. The cheapest comparisons come first."""
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
    """The record as the document declares it."""
    if current is None:
        return Record(document.name, source, document.spec, at, file=file.path, line=document.line)
    return replace(
        current.with_spec(document.spec),
        owner=source,
        file=file.path,
        line=document.line,
        provisional=False,
    )
