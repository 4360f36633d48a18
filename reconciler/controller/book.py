"""The records and what is known of each: written to the store first, then taken up."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from reconciler.controller.clock import Clock
from reconciler.controller.events import Events
from reconciler.core import suspicion
from reconciler.core.backoff import Retry
from reconciler.core.conditions import derive, pending
from reconciler.core.errors import LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.plan import Why
from reconciler.core.records import ModelRef, Record, SettingWarning, Status
from reconciler.core.suspicion import Suspicion
from reconciler.store import Store, UnwritableError

log = structlog.get_logger()

WRITE_AGAIN_SECONDS = 5.0
"""Before what could not be written down is tried again."""

STATE = "state"
"""The name under which events tell of the state directory."""


@dataclass(frozen=True)
class Answer:
    """A record and its status at the moment at which a question was settled."""

    record: Record
    status: Status
    joined: bool = False
    warnings: tuple[SettingWarning, ...] = ()
    """What the question changed for others."""


@dataclass(frozen=True)
class Found:
    """What a model's files said, at a monotonic time."""

    checkpoint: Checkpoint | Problem
    at: float


@dataclass
class Entry:
    """What is known of one record."""

    record: Record
    status: Status
    queued_at: float
    """Monotonic time at which the present wish came up."""
    retry: Retry | None = None
    restore: Retry | None = None
    """Failure to load the last good spec again."""
    suspicion: Suspicion | None = None
    """Crashes that it was there at."""
    unsaved: bool = False
    """Whether its status is not on disk yet."""
    undone_by: Problem | None = None
    """Why its wish is to be undone, while that cannot be written down."""
    idle: bool = False
    """No request came for as long as the record allows."""
    requests: int = 0
    """Being answered."""
    used_at: float = field(init=False)
    """Monotonic time at which the last request ended, or the last wish came or was fulfilled."""
    waiters: list["asyncio.Future[Answer]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.used_at = self.queued_at

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
        self.events = Events(clock)
        self.entries: dict[str, Entry] = {}
        self._asked: Counter[str] = Counter()
        """Names and models that requests wait for an instance of."""
        self.found: dict[ModelRef, Found] = {}
        """What each model that was looked for was found to be."""
        store.tell = self._tell_writable
        self.wake = asyncio.Event()
        """Set when the loop has something to look at."""
        self._changed = asyncio.Event()

    def open(self, owners: Collection[str], boot_id: str) -> None:
        """Take up the stored records; those of owners that are not there any more are dropped.

        `boot_id` tells this start of the machine from others. Raises `UnwritableError`.
        """
        if (broken := self.store.set_aside) is not None:
            log.warning("the database was damaged", why=broken.words)
            self.events.emit("state", STATE, "SetAside", broken.words)
        for record, stored in self.store.load():
            if record.owner in owners:
                status = derive(record, stored, None, None, self.clock.utc())
                entry = Entry(record, status, self.clock.monotonic())
                ready = stored.condition("Ready")
                entry.idle = ready is not None and ready.reason == Why.IDLE
                self.entries[record.name] = entry
            else:
                log.warning("dropping a record whose source is gone", name=record.name)
                self.store.remove(record.name, self.clock.utc())
        self._judge(boot_id)

    def _judge(self, boot_id: str) -> None:
        """Begin a run: hold against records what the last one ended with."""
        last, at = self.store.last_run(), self.clock.utc()
        for one in last.cut_short if last is not None else ():
            log.warning("an action was cut short", name=one.name, action=one.action)
        records, known = self.records().values(), self.store.suspicions()
        found = suspicion.after_start(records, known, last, boot_id, at)
        self.store.begin_run(boot_id, at, found)
        for name, held in found.items():
            self.entries[name].suspicion = held
            if held != known.get(name):
                log.warning(
                    "a record was loaded or loading at a crash",
                    name=name,
                    daemon_crashes=held.daemon_crashes,
                    machine_crashes=held.machine_crashes,
                )

    def close(self) -> None:
        """Note that the run ends as it should."""
        try:
            self.store.end_run(self.clock.utc())
        except UnwritableError as error:
            log.warning("the stop could not be written down", why=error.problem.message)

    def suspect(self, entry: Entry, found: Suspicion | None) -> None:
        """Write what is suspected of a record, and take it up."""
        self.store.suspect(entry.record.name, found)
        entry.suspicion = found

    def suspected(self) -> dict[str, Problem]:
        """Why records are not loaded that were there at crashes, by name."""
        found = {n: suspicion.problem(e.record, e.suspicion) for n, e in self.entries.items()}
        return {name: problem for name, problem in found.items() if problem is not None}

    def clear(self, entry: Entry) -> None:
        """Forget what is held against a record, so that it is tried at once."""
        if not entry.status.ready:
            self.put_status(entry, pending(entry.status, self.clock.utc()))
        self.suspect(entry, None)
        entry.retry = entry.restore = None
        entry.queued_at = self.clock.monotonic()
        self.found.pop(entry.record.spec.ref, None)
        name, generation = entry.record.name, entry.record.generation
        log.info("record cleared", name=name)
        words = "its failures are forgotten; it is tried at once"
        self.events.emit("record", name, "Cleared", words, generation=generation)
        self.wake.set()

    def records(self) -> dict[str, Record]:
        """The records by name."""
        return {name: entry.record for name, entry in self.entries.items()}

    def put(self, record: Record) -> Entry:
        """Write a record and take it up."""
        at = self.clock.utc()
        entry = self.entries.get(record.name)
        before = entry.record if entry is not None else None
        status = entry.status if entry is not None else Status()
        new_wish = before is None or before.generation != record.generation
        if new_wish:
            status = pending(status, at)
        self.store.put(record, status, at)
        if entry is None:
            entry = self.entries[record.name] = Entry(record, Status(), self.clock.monotonic())
        elif new_wish:
            entry.queued_at = entry.used_at = self.clock.monotonic()
            entry.idle = False
            entry.suspicion = entry.undone_by = None
        entry.record = record
        self._tell_change(before, record)
        self._take_status(entry, status)
        self.announce()
        self.wake.set()
        return entry

    def candidates(self, model: str) -> list[Entry]:
        """The records of that name, or else of that model without an adapter."""
        if model in self.entries:
            return [self.entries[model]]
        model = model.lower()
        specs = ((entry, entry.record.spec) for entry in self.entries.values())
        return [e for e, spec in specs if spec.adapter is None and spec.model.lower() == model]

    @contextmanager
    def asking(self, model: str) -> Iterator[None]:
        """While a request waits for an instance that answers for `model`."""
        self._asked[model] += 1
        try:
            yield
        finally:
            self._asked[model] -= 1
            self._asked = +self._asked
            self.wake.set()

    def busy(self) -> frozenset[str]:
        """Who is answering, or is waited for."""
        asked = {e.record.name for model in self._asked for e in self.candidates(model)}
        answering = {n for n, e in self.entries.items() if e.requests or e.waiters}
        return frozenset(asked | answering)

    def wake_up(self, name: str) -> None:
        """Have what is idle loaded again; what is not stays so."""
        entry = self.entries[name]
        entry.used_at = self.clock.monotonic()
        if entry.idle:
            self.put_status(entry, pending(entry.status, self.clock.utc()))
            entry.idle = False
            entry.queued_at = self.clock.monotonic()
            self.wake.set()

    def put_status(self, entry: Entry, status: Status) -> None:
        """Write what is so of a record because somebody wishes it, and take it up."""
        self.store.put(entry.record, status, self.clock.utc())
        self._take_status(entry, status)
        self.announce()

    def observe(self, entry: Entry, status: Status) -> None:
        """Take up what was seen to be so of a record, and write it.

        It is so whether or not it can be written: raises `UnwritableError` after it was taken up.
        """
        entry.unsaved = True
        self._take_status(entry, status)
        self.announce()
        self.store.put(entry.record, status, self.clock.utc())

    def remove(self, name: str, problem: Problem) -> None:
        """Forget a record; whoever waits for it is told `problem`."""
        self.store.remove(name, self.clock.utc())
        entry = self.entries.pop(name)
        log.info("record removed", name=name, reason=problem.message)
        generation = entry.record.generation
        self.events.emit("record", name, "Removed", problem.message, generation=generation)
        entry.fail(problem)
        self.announce()
        self.wake.set()

    def checkpoint(self, ref: ModelRef) -> Checkpoint | None:
        """The checkpoint that was found for a model, if one was."""
        found = self.found.get(ref)
        checkpoint = found.checkpoint if found is not None else None
        return checkpoint if isinstance(checkpoint, Checkpoint) else None

    def _tell_change(self, before: Record | None, record: Record) -> None:
        """An event and a log line where a record came, changed, or got another owner."""
        if before is None:
            reason = "Created"
        elif before.generation != record.generation:
            reason = "Changed"
        elif before.owner != record.owner:
            reason = "TakenOver"
        else:
            return
        generation, place = record.generation, record.place
        log.info("record changed", name=record.name, reason=reason, generation=generation, by=place)
        words = f"generation {generation}, by {place}"
        self.events.emit("record", record.name, reason, words, generation=generation)

    def _take_status(self, entry: Entry, status: Status) -> None:
        """An event and a log line at a transition of conditions, not at each pass."""
        before, entry.status = entry.status, status
        ready = status.condition("Ready")
        if ready is None or _states(before) == _states(status):
            return
        name, generation = entry.record.name, entry.record.generation
        log.info(
            "conditions changed",
            name=name,
            ready=ready.status,
            reason=ready.reason,
            why=ready.message,
        )
        self.events.emit(
            "transition",
            name,
            ready.reason,
            ready.message,
            generation=generation,
            conditions=status.conditions,
        )

    def _tell_writable(self, problem: Problem | None) -> None:
        """An event and a log line when writing begins to fail, and when it does not any more."""
        if problem is not None:
            log.error("the state cannot be written", why=problem.message)
            self.events.emit("state", STATE, "Unwritable", problem.message)
        else:
            log.info("the state can be written again")
            self.events.emit("state", STATE, "Writable", "what happened meanwhile is written down")
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


def _states(status: Status) -> list[tuple[str, str, str]]:
    return [(c.type, c.status, c.reason) for c in status.conditions]
