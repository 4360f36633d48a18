"""Sources -> book: each snapshot is absorbed as a whole, by the same function whoever took it."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from reconciler.controller.book import Book
from reconciler.controller.clock import Timer, sleep
from reconciler.core.desired import Memory, absorb
from reconciler.core.errors import Cause, Problem
from reconciler.core.events import Place
from reconciler.core.manifest import Flaw
from reconciler.core.records import Record
from reconciler.core.snapshot import ManifestFile, Snapshot

log = structlog.get_logger()

RESTART_SECONDS = 1.0
"""Before a source that failed unexpectedly is looked at again."""


class Source(Protocol):
    """Where manifests come from."""

    name: str

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """A snapshot now, and one whenever something may have changed; for ever."""


@dataclass(frozen=True)
class Complaint:
    """Why a record is not as its source says."""

    message: str
    place: Place | None = None


@dataclass(frozen=True)
class SourceView:
    """A source as it was last seen, and what of it is not as it says."""

    snapshot: Snapshot
    flagged: Mapping[str, str]
    """Why a name that it declares is not followed."""
    held: Mapping[str, str]
    """Why a record that it does not declare any more is kept."""

    def complaints(self, record: Record) -> tuple[Complaint, ...]:
        """What is wrong in this source about a record."""
        found = [
            Complaint(why[record.name]) for why in (self.flagged, self.held) if record.name in why
        ]
        if record.owner != self.snapshot.source:
            return tuple(found)
        if self.snapshot.unreadable is not None:
            found.append(Complaint(self.snapshot.unreadable))
        for file in self.snapshot.files:
            if file.path == record.file:
                found += [Complaint(flaw.message, place(file, flaw)) for flaw in file.flaws]
        return tuple(found)


def place(file: ManifestFile, flaw: Flaw) -> Place:
    """Where a flaw stands."""
    return Place(file.path, flaw.position.line, flaw.position.column, flaw.key)


class Feed:
    """Follows one source."""

    def __init__(self, source: Source, book: Book) -> None:
        self.name = source.name
        self.view: SourceView | None = None
        self._source = source
        self._book = book
        self._memory = Memory()
        self._again: Timer | None = None
        """To look again because time alone changes something."""

    async def run(self) -> None:
        """Keep the source's records as it says, for ever."""
        try:
            while True:
                await self._follow()
                await sleep(self._book.clock, RESTART_SECONDS)
        finally:
            self._forget_timer()

    async def _follow(self) -> None:
        try:
            async for snapshot in self._source.snapshots():
                self._absorb(snapshot)
        except Exception:
            log.exception("source failed; it is looked at again", source=self.name)

    def _forget_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _absorb(self, snapshot: Snapshot) -> None:
        self._forget_timer()
        clock = self._book.clock
        at = clock.monotonic()
        records = self._book.records()
        result = absorb(records, self._memory, snapshot, at, clock.utc())
        for record in result.upserts:
            self._book.put(record)
        for name in result.removals:
            words = f"{records[name].place} no longer declares it"
            self._book.remove(name, Problem(Cause.REMOVED, words, permanent=False))
        self._memory = result.memory
        before, self.view = self.view, SourceView(snapshot, result.flagged, result.held)
        self._tell_changes(before, self.view)
        self._book.announce()
        if result.check_at is not None:
            delay = max(0.0, result.check_at - at)
            self._again = clock.call_later(delay, lambda: self._absorb(snapshot))

    def _tell_changes(self, before: SourceView | None, after: SourceView) -> None:
        """An event and a log line where an error comes or goes, not at each look."""
        self._tell_readable(before, after.snapshot)
        known = {f.path: f for f in before.snapshot.files} if before is not None else {}
        for file in after.snapshot.files:
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
        for reason, new, was in (
            ("NotFollowed", after.flagged, before.flagged if before is not None else {}),
            ("Held", after.held, before.held if before is not None else {}),
        ):
            for name, why in new.items():
                if was.get(name) != why:
                    log.warning("source is not followed", name=name, reason=reason, why=why)
                    self._emit(reason, f"{name}: {why}")

    def _tell_readable(self, before: SourceView | None, snapshot: Snapshot) -> None:
        was = before.snapshot.unreadable if before is not None else None
        if snapshot.unreadable is not None and was is None:
            log.warning("source cannot be read; its records are held", reason=snapshot.unreadable)
            self._emit("Unreadable", snapshot.unreadable)
        elif snapshot.unreadable is None and was is not None:
            log.info("source can be read again", source=self.name)
            self._emit("Readable", f"{self.name} can be read again")

    def _emit(self, reason: str, message: str, at: Place | None = None) -> None:
        self._book.events.emit("source", self.name, reason, message, place=at)
