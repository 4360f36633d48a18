"""Snapshots and HTTP requests -> records: owners, take-over, duplicates, held removals.

Desired state changes here and nowhere else, and only as its owner says. A source's snapshot is
absorbed as a whole by one function, whoever took it, so a watch and a rescan cannot disagree.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from reconciler.core.defaults import DEFAULTS, Defaults
from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.records import (
    HTTP,
    SETTINGS,
    Asked,
    Config,
    LoadRequest,
    LoadSpec,
    Record,
    SettingWarning,
)
from reconciler.core.selector import unmet
from reconciler.core.snapshot import Declared, ManifestFile, Snapshot

VANISHED_SECONDS = 2.0
"""A document that is gone this long was removed; editors, rsync and checkouts are quicker."""

EMPTY_SECONDS = 30.0
"""A directory that turned wholly empty is believed after this long."""

GUARDED_RECORDS = 4
"""A commit that would unload more than half of at least so many is held until it is confirmed."""

NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Missing:
    """A record whose document vanished: since when, and which new invalid files hold it."""

    since: float
    held_by: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Memory:
    """What must be remembered of a source between two of its snapshots."""

    files: frozenset[str] = frozenset()
    missing: Mapping[str, Missing] = field(default_factory=dict)


@dataclass(frozen=True)
class Absorbed:
    """What a snapshot changes."""

    upserts: tuple[Record, ...]
    removals: tuple[str, ...]
    memory: Memory
    flagged: Mapping[str, str]
    """Why a name that the snapshot declares is not followed."""
    held: Mapping[str, str]
    """Why a name that the snapshot does not declare any more is kept."""
    not_selected: Mapping[str, str]
    """Why a name that the snapshot declares is not meant for this node."""
    check_at: float | None
    """When to absorb the same snapshot again, because time alone changes the outcome."""


def absorb(
    records: Mapping[str, Record],
    memory: Memory,
    snapshot: Snapshot,
    now: float,
    at: datetime,
    labels: Mapping[str, str] = NO_LABELS,
) -> Absorbed:
    """Fit the records to what a source says to a node with these labels.

    `now` is monotonic seconds, for grace times; `at` is the creation time of new records.
    """
    if snapshot.unreadable is not None:
        return Absorbed((), (), memory, {}, {}, {}, None)
    declared, flagged, not_selected = select(snapshot, labels)
    upserts = []
    for name, (file, document) in declared.items():
        current = records.get(name)
        if current is not None and current.owner not in (HTTP, snapshot.source):
            flagged[name] = f"declared by {current.place} already, which keeps it"
            continue
        if current is not None and _agrees(current, snapshot.source, file, document):
            continue
        upsert = _upsert(current, snapshot.source, file, document, at)
        if upsert != current:
            upserts.append(upsert)
    gone = [
        r
        for r in records.values()
        if r.owner == snapshot.source and r.name not in declared and r.name not in flagged
    ]
    missing = _missing(gone, memory, snapshot, now)
    wait = EMPTY_SECONDS if snapshot.empty else VANISHED_SECONDS
    if snapshot.commit is not None:  # it never is half there
        wait = 0.0
    removals = tuple(n for n, m in missing.items() if not m.held_by and now - m.since >= wait)
    waiting = {n: m for n, m in missing.items() if n not in removals}
    check_at = min((m.since + wait for m in waiting.values() if not m.held_by), default=None)
    files = frozenset(f.path for f in snapshot.files)
    held = {n: _held_by(m.held_by) for n, m in waiting.items() if m.held_by}
    memory = Memory(files, waiting)
    return Absorbed(tuple(upserts), removals, memory, flagged, held, not_selected, check_at)


def guard(
    records: Mapping[str, Record], snapshot: Snapshot, labels: Mapping[str, str]
) -> str | None:
    """Why a commit should not be followed before somebody confirms it, or None.

    What counts is what has been loaded here and is still wanted, whether or not it is loaded at
    this moment: after a restart nothing is.
    """
    declared, flagged, _ = select(snapshot, labels)
    stay = {n for n, (_, document) in declared.items() if not document.spec.suspend} | set(flagged)
    loaded = sorted(
        r.name
        for r in records.values()
        if r.owner == snapshot.source and r.last_good is not None and not r.spec.suspend
    )
    going = [name for name in loaded if name not in stay]
    if len(loaded) < GUARDED_RECORDS or 2 * len(going) <= len(loaded):
        return None
    return f"it would unload {len(going)} of {len(loaded)} loaded records: {', '.join(going)}"


def select(
    snapshot: Snapshot, labels: Mapping[str, str]
) -> tuple[dict[str, tuple[ManifestFile, Declared]], dict[str, str], dict[str, str]]:
    """The documents by name; why the names that stand twice are not followed; and why others are
    not meant for a node with these labels. One name may stand twice for different nodes.
    """
    places: dict[str, list[tuple[ManifestFile, Declared]]] = {}
    not_selected = {}
    for file in snapshot.files:
        for document in file.declared:
            why = unmet(document.spec.node_selector, labels)
            if why is None:
                places.setdefault(document.name, []).append((file, document))
            else:
                not_selected[document.name] = f"{file.path}:{document.line}: {why}"
    flagged = {
        name: "declared more than once: " + ", ".join(f"{f.path}:{d.line}" for f, d in where)
        for name, where in places.items()
        if len(where) > 1
    }
    followed = {n: w[0] for n, w in places.items() if n not in flagged}
    return followed, flagged, {n: w for n, w in not_selected.items() if n not in places}


def _held_by(files: frozenset[str]) -> str:
    return (
        f"its document vanished as {', '.join(sorted(files))} appeared, which is invalid; "
        "it goes once that is mended or removed"
    )


def _agrees(current: Record, source: str, file: ManifestFile, document: Declared) -> bool:
    """True if the record is as the document says: of most, at most looks."""
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
    if current is None:
        return Record(document.name, source, document.spec, at, file=file.path, line=document.line)
    return replace(
        current.with_spec(document.spec),
        owner=source,
        file=file.path,
        line=document.line,
        provisional=False,
    )


def _missing(
    gone: Sequence[Record], memory: Memory, snapshot: Snapshot, now: float
) -> dict[str, Missing]:
    """The vanished documents. Those of a file that is invalid now have not vanished at all."""
    invalid = frozenset(f.path for f in snapshot.files if not f.valid)
    appeared = frozenset(p for p in invalid if p not in memory.files)
    result = {}
    for record in gone:
        if record.file in invalid:
            continue
        before = memory.missing.get(record.name)
        if before is None:
            result[record.name] = Missing(now, appeared)
        else:
            held_by = before.held_by & invalid
            released = before.held_by and not held_by
            result[record.name] = Missing(now if released else before.since, held_by)
    return result


@dataclass(frozen=True)
class View:
    """A record with what is known of it, as the decision about a request needs it."""

    record: Record
    checkpoint: Checkpoint | None
    """None: not resolved, or not to be found."""
    config: Config | None
    """The settings in force, while it is loaded."""
    ready: bool


@dataclass(frozen=True)
class Join:
    """The request is served by a record that is there."""

    name: str


@dataclass(frozen=True)
class Put:
    """The request creates a record, or updates one."""

    record: Record
    warnings: tuple[SettingWarning, ...] = ()
    """What an update changes for everybody else who uses the record."""


def decide(
    views: Sequence[View], request: LoadRequest, checkpoint: Checkpoint, at: datetime
) -> Join | Put:
    """What an HTTP load means for the records.

    Raises `LoadError` `ManagedByManifest` where a manifest owns the name it would have to change.
    """
    agreeing = [
        v
        for v in views
        if request.instance_id in (None, v.record.name)
        and not v.record.spec.suspend
        and _same_model(v, request, checkpoint)
        and agrees(v, request)
    ]
    if agreeing:
        return Join(min(agreeing, key=lambda v: _preference(v, request)).record.name)
    name = request.name
    current = next((v.record for v in views if v.record.name == name), None)
    if current is None:
        spec = LoadSpec(
            request.model,
            request.config,
            request.defaults,
            request.adapter,
            idle_ttl_seconds=request.idle_ttl_seconds,
        )
        return Put(Record(name, HTTP, spec, at, provisional=True))
    if current.owner != HTTP:
        wish = "suspends it" if current.spec.suspend else "asks for other settings"
        message = (
            f"'{name}' is managed by {current.place}, which {wish}; "
            "change the manifest, or send another instance_id"
        )
        raise LoadError(Problem(Cause.MANAGED_BY_MANIFEST, message, param="instance_id"))
    record = current.with_spec(_merged(current.spec, request))
    return Put(record, _changes(current, record))


def put(current: Record | None, name: str, spec: LoadSpec, at: datetime) -> Record:
    """The record that a wish by HTTP makes of the one of that name, if there is one.

    Raises `LoadError` `ManagedByManifest`.
    """
    if current is None:
        return Record(name, HTTP, spec, at, provisional=not spec.suspend)
    if current.owner != HTTP:
        message = f"'{name}' is managed by {current.place}; change it there"
        raise LoadError(Problem(Cause.MANAGED_BY_MANIFEST, message, param="name"))
    return current.with_spec(spec)


def _changes(before: Record, after: Record) -> tuple[SettingWarning, ...]:
    """The settings that an update changes, for the answer."""
    old, new = _asked(before.spec), _asked(after.spec)
    return tuple(
        SettingWarning(
            key,
            _scalar(new[key]),
            f"changed from {'the default' if old[key] is None else _scalar(json.dumps(old[key]))} "
            f"for everybody who uses '{after.name}'",
        )
        for key in old
        if old[key] != new[key]
    )


def _asked(spec: LoadSpec) -> dict[str, Any]:
    """All that a load request may ask for, by key; None: no opinion."""
    config = {key: getattr(spec.config, key) for key in SETTINGS}
    defaults = {f"defaults.{key}": getattr(spec.defaults, key) for key in DEFAULTS}
    return config | defaults | {"adapter": spec.adapter}


def _scalar(value: Any) -> Any:
    """A value as a warning can hold it: no object, and no long text."""
    shown = json.dumps(value) if isinstance(value, dict) else value
    return shown[:SHOWN] + "..." if isinstance(shown, str) and len(shown) > SHOWN else shown


SHOWN = 200
"""Most characters of a value in a warning."""


def agrees(view: View, request: LoadRequest) -> bool:
    """Whether the record has, as asked for or in force, every key that was sent."""
    asked = view.record.spec.config
    for key in SETTINGS:
        wished = getattr(asked, key)
        sent = getattr(request.config, key)
        if key in request.resets:
            if wished is not None:
                return False
        elif sent is None or sent == wished:
            continue
        elif key == "num_experts" and sent == 0:  # 0 means the model's own, as no opinion does
            if wished is not None:
                return False
        elif view.config is None or sent != getattr(view.config, key):
            return False
    if not _agree_on_defaults(view, request):
        return False
    ttl = request.idle_ttl_seconds
    return ttl is None or ttl == view.record.spec.idle_ttl_seconds


def _agree_on_defaults(view: View, request: LoadRequest) -> bool:
    """Whether every default that was sent is the record's, or the model's where it has none."""
    own = view.record.spec.defaults
    published = Defaults()
    if view.checkpoint is not None:
        published = view.checkpoint.generation.defaults
    for key in DEFAULTS:
        asked, sent = getattr(own, key), getattr(request.defaults, key)
        if f"defaults.{key}" in request.resets:
            if asked is not None:
                return False
        elif sent not in (None, getattr(published, key) if asked is None else asked):
            return False
    return True


def _same_model(view: View, request: LoadRequest, checkpoint: Checkpoint) -> bool:
    """Whether the record has the requested weights, and the requested adapter or none.

    Who names an instance and no adapter has no opinion about its adapter.
    """
    found, record = view.checkpoint, view.record
    same = record.spec.model == request.model if found is None else found.path == checkpoint.path
    sent = request.adapter is not None or "adapter" in request.resets
    if request.instance_id is not None and not sent:
        return same
    if found is not None and found.adapter is not None and checkpoint.adapter is not None:
        return same and found.adapter.path == checkpoint.adapter.path
    return same and record.spec.adapter == request.adapter


def _preference(view: View, request: LoadRequest) -> tuple[bool, bool, float, str]:
    """The one named as the model, else one that is ready, else the oldest."""
    record = view.record
    age = record.created_at.timestamp()
    return (record.name != request.model, not view.ready, age, record.name)


def _merged(spec: LoadSpec, request: LoadRequest) -> LoadSpec:
    """The spec with the sent keys in place of its own, and the reset ones gone.

    Without an `instance_id` no adapter means the model without one.
    """

    def merged(own: dict[str, Any], sent: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        values = own | sent
        return {k: v for k, v in values.items() if prefix + k not in request.resets}

    ttl = request.idle_ttl_seconds
    adapter = request.adapter
    if adapter is None and request.instance_id is not None and "adapter" not in request.resets:
        adapter = spec.adapter
    return replace(
        spec,
        model=request.model,
        config=Asked(**merged(spec.config.sent(), request.config.sent())),
        defaults=Defaults(**merged(spec.defaults.sent(), request.defaults.sent(), "defaults.")),
        adapter=adapter,
        idle_ttl_seconds=spec.idle_ttl_seconds if ttl is None else ttl,
    )
