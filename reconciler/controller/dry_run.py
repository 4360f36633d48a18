"""Previews changes with the reconciler's own plan, without applying them.

A preview of 10,000 records takes a tenth of a second, so it runs on a thread, on immutable facts
that were collected in one step of the event loop.
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
from reconciler.core.parts import to_download
from reconciler.core.plan import Action
from reconciler.core.records import LoadRequest, LoadSpec, ModelRef, Record
from reconciler.core.settings import Resolved, resolve
from reconciler.core.snapshot import Snapshot


@dataclass(frozen=True)
class PlanRequest:
    """Records to put and records to delete."""

    apply: Sequence[tuple[str, LoadSpec]] = ()
    delete: Sequence[str] = ()
    source: Snapshot | None = None
    """Hypothetical snapshot of a source."""
    declare: Sequence[tuple[str, LoadSpec]] = ()
    """Records with the specs that their owners would declare."""


@dataclass(frozen=True)
class Change:
    """Change of a record's spec; `before` is None for a new record, `after` for a deleted one."""

    name: str
    before: LoadSpec | None
    after: LoadSpec | None


@dataclass(frozen=True)
class DryRun:
    """Actions that the next pass would start, and running actions."""

    actions: tuple[Action, ...]
    changes: tuple[Change, ...]
    refused: Mapping[str, Problem]
    """Specs that would be rejected, by name."""
    running: tuple[Action, ...] = ()
    not_selected: Mapping[str, str] = field(default_factory=dict)
    """Names declared for other nodes, with the reason."""
    source_errors: Sequence[tuple[str, SourceError]] = ()
    """Errors in the sources, each with the name of its source."""


@dataclass(frozen=True)
class Estimate:
    """Memory that a load needs, in bytes, and whether it would be admitted now."""

    checkpoint: Checkpoint
    resolved: Resolved
    needed: int
    """Bytes in addition to the memory in use."""
    free: int
    budget: int

    @property
    def fits(self) -> bool:
        """True if the load would be admitted now."""
        return self.needed <= self.free


class DryRuns:
    """Runs previews and estimates. Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        reconciler: Reconciler,
        feeds: Sequence[SourceSync],
        labels: Mapping[str, str],
    ) -> None:
        """`labels` are this node's, matched by node selectors."""
        self._registry = registry
        self._lookups = lookups
        self._reconciler = reconciler
        self._feeds = feeds
        self._labels = labels

    async def dry_run(self, request: PlanRequest) -> DryRun:
        """Preview the request's puts and deletions. Raises `LoadError`."""
        machine = await self._reconciler.known_machine()
        specs = _asked_specs(request)
        checkpoints = await self._lookups.find_all(spec.ref for spec in specs)
        for ref in {spec.ref for spec in specs if spec.download == "if-missing"}:
            if isinstance(found := checkpoints[ref], Problem):
                checkpoints[ref] = to_download(ref, found)
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
        """Estimate the memory that a load needs, without loading. Raises `LoadError`."""
        machine = await self._reconciler.known_machine()
        checkpoint = await self._lookups.find(request.ref)
        resolved = resolve(request.config, checkpoint, machine)
        ledger = self._reconciler.planning.held_memory(machine)
        free = ledger.budget - ledger.used
        short = ledger.missing(checkpoint.path, resolved.need.shared, resolved.need.own)
        return Estimate(checkpoint, resolved, short + free, free, ledger.budget)


def _asked_specs(request: PlanRequest) -> list[LoadSpec]:
    files = request.source.files if request.source is not None else ()
    specs = [spec for _, spec in (*request.apply, *request.declare)]
    specs += [d.spec for f in files for d in f.declared]
    return [spec for spec in specs if not spec.suspend]


def _work_out(
    request: PlanRequest,
    now: Mapping[str, Record],
    checkpoints: Mapping[ModelRef, Checkpoint | Problem],
    preview: Preview,
    at: datetime,
    labels: Mapping[str, str],
) -> DryRun:
    """Compute the hypothetical records and the actions of the next pass on them."""
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
