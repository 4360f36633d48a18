"""Sources -> book: each snapshot is absorbed as a whole, by the same function whoever took it."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from reconciler.controller.book import Book
from reconciler.controller.clock import sleep
from reconciler.core.desired import Memory, absorb
from reconciler.core.errors import Cause, Problem
from reconciler.core.snapshot import Snapshot

log = structlog.get_logger()

RESTART_SECONDS = 1.0
"""Before a source that failed unexpectedly is looked at again."""


class Source(Protocol):
    """Where manifests come from."""

    name: str

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """A snapshot now, and one whenever something may have changed; for ever."""


@dataclass(frozen=True)
class SourceView:
    """A source as it was last seen, and which of its declarations are not followed."""

    snapshot: Snapshot
    flagged: Mapping[str, str]


class Feed:
    """Follows one source."""

    def __init__(self, source: Source, book: Book) -> None:
        self.name = source.name
        self.view: SourceView | None = None
        self._source = source
        self._book = book
        self._memory = Memory()

    async def run(self) -> None:
        """Keep the source's records as it says, for ever."""
        while True:
            try:
                async for snapshot in self._source.snapshots():
                    before = self.view.snapshot if self.view is not None else None
                    self._absorb(snapshot)
                    _log_flaws(before, snapshot)
            except Exception:
                log.exception("source failed; it is looked at again", source=self.name)
                await sleep(self._book.clock, RESTART_SECONDS)

    def _absorb(self, snapshot: Snapshot) -> None:
        clock = self._book.clock
        at = clock.monotonic()
        records = self._book.records()
        result = absorb(records, self._memory, snapshot, at, clock.utc())
        for record in result.upserts:
            known = records.get(record.name)
            if known is None:
                log.info("record created", name=record.name, place=record.place)
            elif record.generation != known.generation:
                log.info("record changed", name=record.name, generation=record.generation)
            self._book.put(record)
        for name in result.removals:
            words = f"{records[name].place} no longer declares it"
            self._book.remove(name, Problem(Cause.REMOVED, words, permanent=False))
        self._memory = result.memory
        self.view = SourceView(snapshot, result.flagged)
        self._book.announce()
        if result.check_at is not None:
            clock.call_later(max(0.0, result.check_at - at), lambda: self._absorb_again(snapshot))

    def _absorb_again(self, snapshot: Snapshot) -> None:
        """Look again because time has passed, unless something newer is known."""
        if self.view is not None and self.view.snapshot is snapshot:
            self._absorb(snapshot)


def _log_flaws(before: Snapshot | None, after: Snapshot) -> None:
    """Log a source's errors when they come and when they go, not at each look."""
    if after.unreadable is not None:
        if before is None or before.unreadable is None:
            log.warning("source cannot be read; its records are held", reason=after.unreadable)
        return
    known = {f.path: f.flaws for f in before.files} if before is not None else {}
    for file in after.files:
        if file.flaws == known.get(file.path, ()):
            continue
        for flaw in file.flaws:
            place = f"{file.path}:{flaw.position.line}:{flaw.position.column}"
            log.warning("manifest is invalid", place=place, reason=flaw.message)
        if file.valid:
            log.info("manifest is valid again", file=file.path)
