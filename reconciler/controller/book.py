"""The records and what is known of each: written to the store first, then taken up."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import structlog

from reconciler.controller.clock import Clock
from reconciler.core.backoff import Retry
from reconciler.core.conditions import derive, pending
from reconciler.core.errors import LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.records import Record, Status
from reconciler.store import Store

log = structlog.get_logger()


@dataclass(frozen=True)
class Answer:
    """A record and its status at the moment at which a question was settled."""

    record: Record
    status: Status
    joined: bool = False


@dataclass
class Entry:
    """What is known of one record."""

    record: Record
    status: Status
    queued_at: float
    """Monotonic time at which the present wish came up."""
    checkpoint: Checkpoint | Problem | None = None
    """What `checked_model` was found to be, at the monotonic time `checked_at`."""
    checked_model: str | None = None
    checked_at: float = 0.0
    retry: Retry | None = None
    waiters: list["asyncio.Future[Answer]"] = field(default_factory=list)

    def found(self, model: str, checkpoint: Checkpoint | Problem, at: float) -> None:
        """Note what a model's files say, at a monotonic time."""
        self.checkpoint, self.checked_model, self.checked_at = checkpoint, model, at

    def succeed(self) -> None:
        """Answer whoever waits."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(Answer(self.record, self.status))
        self.waiters.clear()

    def fail(self, problem: Problem) -> None:
        """Tell whoever waits why it will not be."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(LoadError(problem))
        self.waiters.clear()


class Book:
    """All entries by name. Used on the event loop only."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.entries: dict[str, Entry] = {}
        self.wake = asyncio.Event()
        """Set when the loop has something to look at."""
        self._changed = asyncio.Event()

    def open(self, owners: Collection[str]) -> None:
        """Take up the stored records; those of owners that are not there any more are dropped."""
        for name, action in self.store.take_unfinished_attempts(self.clock.utc()):
            log.warning("an action was cut short by the last stop", name=name, action=action)
        for record, stored in self.store.load():
            if record.owner in owners:
                status = derive(record, stored, None, None, self.clock.utc())
                self.entries[record.name] = Entry(record, status, self.clock.monotonic())
            else:
                log.warning("dropping a record whose source is gone", name=record.name)
                self.store.remove(record.name)

    def records(self) -> dict[str, Record]:
        """The records by name."""
        return {name: entry.record for name, entry in self.entries.items()}

    def put(self, record: Record) -> Entry:
        """Write a record and take it up."""
        entry = self.entries.get(record.name)
        status = entry.status if entry is not None else Status()
        new_wish = entry is None or entry.record.generation != record.generation
        if new_wish:
            status = pending(status, self.clock.utc())
        self.store.put(record, status)
        if entry is None:
            entry = self.entries[record.name] = Entry(record, status, self.clock.monotonic())
        elif new_wish:
            entry.queued_at = self.clock.monotonic()
        entry.record, entry.status = record, status
        self.announce()
        self.wake.set()
        return entry

    def put_status(self, entry: Entry, status: Status) -> None:
        """Write what became of a record."""
        self.store.put(entry.record, status)
        entry.status = status
        self.announce()

    def remove(self, name: str, problem: Problem) -> None:
        """Forget a record; whoever waits for it is told `problem`."""
        self.store.remove(name)
        entry = self.entries.pop(name)
        log.info("record removed", name=name, reason=problem.message)
        entry.fail(problem)
        self.announce()
        self.wake.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at after every change."""
        while not condition():
            await self._changed.wait()

    def announce(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()
