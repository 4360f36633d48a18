"""What would happen: answered by the reconciler's own plan, and nothing is changed by asking.

What is asked about 10,000 records takes a tenth of a second, so it is worked out on a thread, from
facts that were gathered in one step of the event loop and that nothing changes.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from reconciler.controller.lookups import Lookups
from reconciler.controller.planning import Preview
from reconciler.controller.reconciler import Reconciler
from reconciler.controller.registry import Registry
from reconciler.controller.source_sync import SourceError, SourceSync
from reconciler.core.absorb import SourceState, absorb
from reconciler.core.desired import declare, put, removable
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.plan import Action
from reconciler.core.records import LoadRequest, LoadSpec, ModelRef, Record
from reconciler.core.settings import Resolved, resolve
from reconciler.core.snapshot import Snapshot


@dataclass(frozen=True)
class PlanRequest:
    """Records that would be put, and records that would be deleted."""

    apply: Sequence[tuple[str, LoadSpec]] = ()
    delete: Sequence[str] = ()
    source: Snapshot | None = None
    """A source as it would be."""
    declare: Sequence[tuple[str, LoadSpec]] = ()
    """Records as their owners would declare them."""


@dataclass(frozen=True)
class Change:
    """Of a record's spec; None: there is no record."""

    name: str
    before: LoadSpec | None
    after: LoadSpec | None


@dataclass(frozen=True)
class DryRun:
    """What the next pass would do, and what it does already."""

    actions: tuple[Action, ...]
    changes: tuple[Change, ...]
    refused: Mapping[str, Problem]
    """Specs that would be refused, by name."""
    running: tuple[Action, ...] = ()
    not_selected: Mapping[str, str] = field(default_factory=dict)
    """What the source would declare for other nodes, and why."""
    source_errors: Sequence[tuple[str, SourceError]] = ()
    """What of the sources is not followed as it stands, each after its source's name."""


@dataclass(frozen=True)
class Estimate:
    """What a load would need, in bytes, and whether it would be admitted now."""

    checkpoint: Checkpoint
    resolved: Resolved
    needed: int
    """On top of what is loaded."""
    free: int
    budget: int

    @property
    def fits(self) -> bool:
        """Whether there is room for it now."""
        return self.needed <= self.free


class DryRuns:
    """Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        reconciler: Reconciler,
        feeds: Sequence[SourceSync],
        labels: Mapping[str, str],
    ) -> None:
        """By `labels` manifests pick this node."""
        self._registry = registry
        self._lookups = lookups
        self._reconciler = reconciler
        self._feeds = feeds
        self._labels = labels

    async def dry_run(self, request: PlanRequest) -> DryRun:
        """What would be done if the request's records were put and deleted. Raises `LoadError`."""
        machine = await self._reconciler.known_machine()
        checkpoints = await self._lookups.find_all(_asked_models(request))
        records, at = dict(self._registry.records), self._registry.clock.utc()
        preview = self._reconciler.planning.preview(records, machine)
        running = tuple(self._reconciler.running.values())
        views = [(feed.name, feed.view) for feed in self._feeds]
        errors = [(name, e) for name, view in views if view is not None for e in view.errors]
        dry_run = await asyncio.to_thread(
            _work_out, request, records, checkpoints, preview, at, self._labels
        )
        return replace(dry_run, running=running, source_errors=errors)

    async def estimate(self, request: LoadRequest) -> Estimate:
        """What a load would need; nothing is loaded. Raises `LoadError`."""
        machine = await self._reconciler.known_machine()
        checkpoint = await self._lookups.find(request.ref)
        resolved = resolve(request.config, checkpoint, machine)
        ledger = self._reconciler.planning.held_memory(machine)
        free = ledger.budget - ledger.used
        short = ledger.missing(checkpoint.path, resolved.need.shared, resolved.need.own)
        return Estimate(checkpoint, resolved, short + free, free, ledger.budget)


def _asked_models(request: PlanRequest) -> list[ModelRef]:
    files = request.source.files if request.source is not None else ()
    specs = [spec for _, spec in (*request.apply, *request.declare)]
    specs += [d.spec for f in files for d in f.declared]
    return [spec.ref for spec in specs if not spec.suspend]


def _work_out(
    request: PlanRequest,
    now: Mapping[str, Record],
    checkpoints: Mapping[ModelRef, Checkpoint | Problem],
    preview: Preview,
    at: datetime,
    labels: Mapping[str, str],
) -> DryRun:
    """The records as they would be, and what the next pass would do about them."""
    then, refused = dict(now), {}
    not_selected: Mapping[str, str] = {}
    if request.source is not None:
        result = absorb(now, SourceState(), request.source, 0.0, at, labels)
        for name in result.removals:
            del then[name]
        then |= {record.name: record for record in result.upserts}
        not_selected = result.not_selected
        for name, why in result.flagged.items():
            refused[name] = Problem(Reason.MANAGED_BY_MANIFEST, f"'{name}' is {why}")
    for name in request.delete:
        try:
            removable(now, name)
            then.pop(name, None)
        except LoadError as error:
            refused[name] = error.problem
    for name, spec in request.apply:
        try:
            then[name] = put(then.get(name), name, spec, at)
        except LoadError as error:
            refused[name] = error.problem
    for name, spec in request.declare:
        then[name] = declare(then.get(name), name, spec, at)
    changes = tuple(
        Change(name, before, after)
        for name in sorted(now.keys() | then.keys())
        if (before := _spec(now.get(name))) is not (after := _spec(then.get(name)))
        and before != after
    )
    return DryRun(preview(then, checkpoints), changes, refused, not_selected=not_selected)


def _spec(record: Record | None) -> LoadSpec | None:
    return record.spec if record is not None else None
