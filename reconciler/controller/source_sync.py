"""Applies each snapshot of a source to the registry.

A snapshot is absorbed as a whole, by the same function for every kind of source.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

import structlog

from reconciler.controller.clock import Timer, sleep
from reconciler.controller.reconciler import WRITE_AGAIN_SECONDS
from reconciler.controller.registry import Registry
from reconciler.core.absorb import SourceState, absorb, guard
from reconciler.core.difference import difference
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.events import FileLocation
from reconciler.core.manifest import Diagnostic
from reconciler.core.records import Record
from reconciler.core.selection import Ahead, Selection, select
from reconciler.core.snapshot import Commit, ManifestFile, Snapshot
from reconciler.store import UnwritableError

log = structlog.get_logger()

PIECE = 50
"""Records applied or removed before the event loop runs other tasks: about 10 ms."""

PASSES_BETWEEN_PIECES = 6
"""Event-loop iterations between two pieces, as many as a short HTTP request needs from connection
to response. A piece in each iteration would delay the request by all of them."""

MANY_FILES = 1_000
"""Files in a snapshot above which documents are selected on a thread."""

SHOWN = 3
"""Maximum number of names in a message."""

RESTART_SECONDS = 1.0
"""Delay before a source is restarted after an unexpected failure."""


class Source(Protocol):
    """A source of manifests."""

    name: str

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """Yield a snapshot immediately, and another whenever something may have changed."""

    async def sync(self) -> None:
        """Check for changes; return when they have been applied."""

    def accept(self, commit: str) -> None:
        """Confirm that the commit of the last yielded snapshot was applied."""


@dataclass(frozen=True)
class SourceError:
    """Reason why a record does not match its source."""

    message: str
    place: FileLocation | None = None


@dataclass(frozen=True)
class SourceView:
    """Last snapshot of a source, and its parts that are not in effect."""

    snapshot: Snapshot
    flagged: Mapping[str, str]
    """Reasons why declared names are not followed."""
    held: Mapping[str, str]
    """Reasons why records that are no longer declared are kept."""
    not_selected: Mapping[str, str] = field(default_factory=dict)
    """Reasons why declared names are not meant for this node."""
    unconfirmed: frozenset[str] = frozenset()
    """Names in `held` whose removal must be confirmed by a user."""

    @cached_property
    def _invalid(self) -> dict[str, ManifestFile]:
        return {f.path: f for f in self.snapshot.files if f.flaws}

    @cached_property
    def _invalid_folders(self) -> tuple[ManifestFile, ...]:
        return tuple(f for path, f in self._invalid.items() if path.endswith("/"))

    @property
    def errors(self) -> tuple[SourceError, ...]:
        """Errors in this source."""
        found = [SourceError(self.snapshot.problem)] if self.snapshot.problem is not None else []
        for file in self._invalid.values():
            found += [SourceError(flaw.message, place(file, flaw)) for flaw in file.flaws]
        for names in (self.flagged, self.held):
            found += [SourceError(f"{name}: {why}") for name, why in names.items()]
        return tuple(found)

    def complaints(self, record: Record) -> tuple[SourceError, ...]:
        """Errors in this source that affect a record."""
        found = [
            SourceError(why[record.name]) for why in (self.flagged, self.held) if record.name in why
        ]
        if record.owner != self.snapshot.source:
            return tuple(found)
        if self.snapshot.problem is not None:
            found.append(SourceError(self.snapshot.problem))
        file = self._invalid.get(record.file or "")
        for one in (file,) if file is not None else self._invalid_folders:
            if one.covers(record.file):
                found += [SourceError(flaw.message, place(one, flaw)) for flaw in one.flaws]
        return tuple(found)


def place(file: ManifestFile, flaw: Diagnostic) -> FileLocation:
    """Return the location of a diagnostic."""
    return FileLocation(file.path, flaw.position.line, flaw.position.column, flaw.key)


class SourceSync:
    """Keeps the registry in sync with one source."""

    def __init__(self, source: Source, registry: Registry, labels: Mapping[str, str]) -> None:
        """`labels` are this node's; documents whose selectors do not match are ignored."""
        self.name = source.name
        self.view: SourceView | None = None
        self.guarded: Snapshot | None = None
        """Snapshot of a commit that awaits confirmation."""
        self._source = source
        self._registry = registry
        self._labels = labels
        self._confirmed: str | None = None
        """Commit that a user has confirmed."""
        self._to_go: frozenset[str] = frozenset()
        """Names whose removal a user has confirmed."""
        self._resumed = asyncio.Event()
        if not registry.store.is_suspended(self.name):
            self._resumed.set()
        self._memory = SourceState()
        self._touched = registry.touched()
        self._unwritten: Problem | None = None
        """Problem that prevents applying the source, until a retry succeeds."""
        self._partly = False
        """True while a snapshot is only partly applied."""
        self._again: Timer | None = None
        """Timer of the next evaluation, for changes that depend on time alone."""

    async def run(self) -> None:
        """Keep records in sync with the source, for ever."""
        try:
            while True:
                await self._follow()
                await sleep(self._registry.clock, RESTART_SECONDS)
        finally:
            self._forget_timer()

    async def _follow(self) -> None:
        try:
            async for snapshot in self._source.snapshots():
                ahead = None if self.suspended else await self._select_ahead(snapshot)
                if self.suspended:
                    await self._resumed.wait()
                    continue  # this snapshot is stale; `resume` requests a new one
                self._when_writable(partial(self._take, snapshot, ahead))
        except Exception:
            log.exception("source failed; restarting", source=self.name)

    @property
    def suspended(self) -> bool:
        """True if a user has suspended it."""
        return not self._resumed.is_set()

    def suspend(self) -> None:
        """Stop following the source, and keep its records as they are until `resume`."""
        self._registry.store.note_suspended(self.name, suspended=True)
        self._resumed.clear()
        self._forget_timer()
        self._emit("Suspended", "not followed until resumed")
        self._registry.announce()

    async def resume(self) -> None:
        """Follow the source again; returns when its current state has been applied."""
        self._registry.store.note_suspended(self.name, suspended=False)
        self._memory = self._memory.resumed()
        self._resumed.set()
        self._emit("Resumed", "followed again")
        await self.sync()

    async def sync(self) -> None:
        """Check for changes; return when they have been applied. Raises `LoadError`."""
        if self.suspended:
            words = f"{self.name} is suspended; to follow it again, run `reconciler resume`"
            raise LoadError(Problem(Reason.SUSPENDED, words))
        await self._source.sync()
        await self._registry.until(
            lambda: not self._partly or self.suspended or self._unwritten is not None
        )
        self._taken()

    async def look(self) -> None:
        """Call `sync` without a waiter; failures are logged."""
        try:
            await self.sync()
        except LoadError as error:
            log.warning("source is not followed", source=self.name, reason=str(error))

    def confirm(self) -> None:
        """Apply changes that await confirmation. Raises `LoadError` if there are none."""
        if self.suspended:
            words = f"{self.name} is suspended; to follow it again, run `reconciler resume`"
            raise LoadError(Problem(Reason.SUSPENDED, words))
        if self.view is not None and self.view.unconfirmed:
            self._to_go = self.view.unconfirmed
            self._emit("Confirmed", f"removal of {', '.join(sorted(self._to_go))}")
            self._when_writable(partial(self._absorb, self.view.snapshot))
            self._taken()
            return
        if self.guarded is None or self.guarded.commit is None:
            words = f"nothing in {self.name} awaits confirmation"
            raise LoadError(Problem(Reason.NOTHING_HELD, words))
        self._confirmed = self.guarded.commit.applied
        self._emit("Confirmed", f"commit {self._confirmed} is followed")
        self._when_writable(partial(self._take, self.guarded))
        self._taken()

    def _when_writable(self, take: Callable[[], None]) -> None:
        """Apply the source; retry after a delay if the state cannot be written."""
        self._forget_timer()
        try:
            take()
        except UnwritableError as error:
            self._unwritten = error.problem
            self._again = self._registry.clock.call_later(
                WRITE_AGAIN_SECONDS, partial(self._when_writable, take)
            )
        else:
            self._unwritten = None

    def _taken(self) -> None:
        """Raises `LoadError` if the last snapshot could not be persisted."""
        if self._unwritten is not None:
            raise LoadError(self._unwritten)

    @property
    def _selection(self) -> Selection | None:
        """Selection of the last snapshot."""
        compared = self._memory.compared
        return compared.selection if compared is not None else None

    async def _select_ahead(self, snapshot: Snapshot) -> Ahead | None:
        """Select the documents of a large snapshot on a thread."""
        if len(snapshot.files) < MANY_FILES:
            return None
        before = self._selection
        return Ahead(before, await asyncio.to_thread(select, snapshot, self._labels, before))

    def _take(self, snapshot: Snapshot, ahead: Ahead | None = None) -> None:
        """Apply a snapshot, unless it must be confirmed first."""
        commit = snapshot.commit
        if commit is None or commit.applied is None or snapshot.unreadable is not None:
            self._absorb(snapshot, ahead)
            return
        before = self._selection
        selection = ahead.of(before) if ahead is not None else None
        if selection is None:
            selection = select(snapshot, self._labels, before)
        if twice := selection.flagged:
            words = "; ".join(f"{name} is {why}" for name, why in list(twice.items())[:SHOWN])
            self._hold(commit, words)
            return
        why = guard(self._registry.records, self.name, selection)
        if why is None or commit.applied == self._confirmed:
            if commit.problem is None:  # a commit held earlier can still be confirmed
                self.guarded = None
            self._source.accept(commit.applied)
            self._absorb(snapshot, Ahead(before, selection))
            return
        self.guarded = snapshot
        self._hold(commit, f"{why}; if this is intended, run `reconciler confirm`")

    def _hold(self, commit: Commit, words: str) -> None:
        """Keep the previously applied state in effect, and report the reason."""
        before = self.view.snapshot if self.view is not None else Snapshot(self.name, unreadable="")
        state = before.commit or Commit(None)
        held = replace(state, attempted=commit.applied, problem=words, synced_at=commit.synced_at)
        unreadable = words if state.applied is None else None
        self._absorb(replace(before, commit=held, unreadable=unreadable))

    def _after_passes(self, passes: int, take: Callable[[], None]) -> None:
        """Call `take` after that number of event-loop iterations."""
        call = partial(self._after_passes, passes - 1, take) if passes > 1 else take
        self._again = self._registry.clock.call_later(0.0, call)

    def _forget_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _absorb(self, snapshot: Snapshot, ahead: Ahead | None = None) -> None:
        self._forget_timer()
        clock = self._registry.clock
        at = clock.monotonic()
        records, touched = self._registry.records, frozenset(self._touched)
        result = absorb(
            records,
            self._memory,
            snapshot,
            at,
            clock.utc(),
            self._labels,
            self._to_go,
            PIECE,
            touched,
            ahead.of(self._selection) if ahead is not None else None,
        )
        removals = result.removals[:PIECE]
        removed = {name: f"{records[name].place} no longer declares it" for name in removals}
        self._registry.put_all(
            result.upserts,
            {name: Problem(Reason.REMOVED, w, permanent=False) for name, w in removed.items()},
        )
        self._partly = result.more or removals != result.removals
        if self._partly:  # absorbing it again finds the rest
            if result.more:
                self._remember(result.memory, touched)
            take = partial(self._when_writable, partial(self._absorb, snapshot))
            self._after_passes(PASSES_BETWEEN_PIECES, take)
            return
        self._remember(result.memory, touched - removed.keys())
        self._to_go &= result.memory.missing.keys()
        before, self.view = (
            self.view,
            SourceView(
                snapshot, result.flagged, result.held, result.not_selected, result.unconfirmed
            ),
        )
        self._emit_changes(before, self.view)
        self._registry.announce()
        if result.check_at is not None:
            delay = max(0.0, result.check_at - at)
            self._again = clock.call_later(
                delay, partial(self._when_writable, partial(self._absorb, snapshot))
            )

    def _remember(self, memory: SourceState, touched: frozenset[str]) -> None:
        """Keep the compared state; drop `touched` records unless nothing was compared."""
        if memory is not self._memory:
            self._memory = memory
            self._touched -= touched

    def _emit_changes(self, before: SourceView | None, after: SourceView) -> None:
        """Emit an event and a log line when an error appears or disappears, not at each check."""
        self._emit_readable(before, after.snapshot)
        gone, come = difference(before.snapshot.files if before else (), after.snapshot.files)
        known = {file.path: file for file in gone}
        for file in come:
            old = known.get(file.path)
            if old is not None and old.flaws == file.flaws:
                continue
            for flaw in file.flaws:
                at = place(file, flaw)
                log.warning(
                    "manifest is invalid",
                    place=f"{at.file}:{at.line}:{at.column}",
                    key=at.key,
                    reason=flaw.message,
                )
                self._emit("Invalid", f"{at.file}:{at.line}:{at.column}: {flaw.message}", at)
            if old is not None and file.valid:
                log.info("manifest is valid again", file=file.path)
                self._emit("Valid", f"{file.path} is valid again")
        for path in sorted(known.keys() - {file.path for file in come}):
            if known[path].flaws:
                log.info("invalid manifest is gone", file=path)
                self._emit("Valid", f"{path} is gone, and its errors with it")
        for reason, new, was in (
            ("NotFollowed", after.flagged, before.flagged if before is not None else {}),
            ("Held", after.held, before.held if before is not None else {}),
        ):
            for name, why in new.items():
                if was.get(name) != why:
                    log.warning("source is not followed", name=name, reason=reason, why=why)
                    self._emit(reason, f"{name}: {why}")

    def _emit_readable(self, before: SourceView | None, snapshot: Snapshot) -> None:
        was = before.snapshot if before is not None else None
        if snapshot.problem is not None:
            if was is None or was.problem != snapshot.problem:
                log.warning("source is not followed", source=self.name, reason=snapshot.problem)
                self._emit("Unreadable", snapshot.problem)
        elif was is not None and was.problem is not None:
            log.info("source can be read again", source=self.name)
            self._emit("Readable", f"{self.name} can be read again")
        applied = snapshot.commit.applied if snapshot.commit is not None else None
        known = was.commit.applied if was is not None and was.commit is not None else None
        if applied is not None and applied != known:
            log.info("commit is applied", source=self.name, commit=applied)
            self._emit("Applied", f"commit {applied}")

    def _emit(self, reason: str, message: str, at: FileLocation | None = None) -> None:
        self._registry.events.emit("source", self.name, reason, message, place=at)
