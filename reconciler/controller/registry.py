"""Holds all records: written to disk first, then to memory.

Desired state is written before it takes effect, in one transaction for any number of records; if
the write fails, nothing changes. Observed state (statuses, crashes) is updated in memory first and
persisted by the next pass of the reconciler. Passes skip settled records; `active` names the
others.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import structlog

from reconciler.controller.clock import Clock
from reconciler.controller.events import Events
from reconciler.controller.state import RecordState, Stored
from reconciler.core import suspicion
from reconciler.core.aliases import Aliases
from reconciler.core.conditions import derive, pending
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.plan import rest
from reconciler.core.records import Record, Status
from reconciler.store import Store

log = structlog.get_logger()

STATE = "state"
"""Name of the state directory in events."""

NOTHING: Mapping[str, Problem] = MappingProxyType({})


class Registry:
    """Records by name. Used on the event loop only."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.events = Events(clock)
        self.states: dict[str, RecordState] = {}
        self.records: dict[str, Record] = {}
        """Records by name, in sync with `states`."""
        self.aliases = Aliases()
        self._touched: list[set[str]] = []
        """One set per subscriber, with the names of records added, changed or removed."""
        self.active: set[str] = set()
        """Names of the records that the next pass processes."""
        self._asked: Counter[str] = Counter()
        """Names and models with requests waiting for an instance."""
        store.on_problem = self._emit_writable
        self.wake = asyncio.Event()
        """Set to request a pass of the reconciler."""
        self._changed = asyncio.Event()

    # -- start and stop ----------------------------------------------------------------------

    def open(self, owners: Collection[str], boot_id: str) -> None:
        """Load the stored records and drop those whose owner is gone.

        `boot_id` identifies this boot of the machine. Raises `UnwritableError`.
        """
        if (broken := self.store.quarantined) is not None:
            log.warning("the database was damaged", why=broken.words)
            self.events.emit("state", STATE, "SetAside", broken.words)
        with self.store.transaction():
            for record, stored in self.store.load():
                if record.owner in owners:
                    self._open(record, stored)
                else:
                    log.warning("dropping a record whose source is gone", name=record.name)
                    self.store.remove(record.name, self.clock.utc())
            self._begin_run(boot_id)

    def _open(self, record: Record, stored: Status) -> None:
        """Restore a stored record; its instance is not loaded yet."""
        ready = stored.condition("Ready")
        ttl = record.spec.idle_ttl_seconds
        idle = ttl is not None and ready is not None and ready.reason == Reason.IDLE
        action = rest(record, idle=idle)
        status = derive(record, stored, None, action, self.clock.utc())
        on_disk = Stored(record, stored)
        state = RecordState(record, status, self.clock.monotonic(), on_disk)
        if idle and action is not None:
            state.resume_idle()
        if action is not None:
            state.judge(status, action)
        self.states[record.name] = state
        self.records[record.name] = record
        self.aliases.put(record)
        if not state.settled:
            self.active.add(record.name)

    def _begin_run(self, boot_id: str) -> None:
        """Begin a run and attribute an abnormal end of the previous run to its suspects."""
        last, at = self.store.last_run(), self.clock.utc()
        for one in last.interrupted if last is not None else ():
            log.warning("an action was interrupted", name=one.name, action=one.action)
        known = self.store.suspicions()
        found = suspicion.after_start(self.records.values(), known, last, boot_id, at)
        self.store.begin_run(boot_id, at, found)
        for name, crashes in found.items():
            self.states[name].blame(crashes)
            if crashes != known.get(name):
                log.warning(
                    "a record was loaded or loading during a crash",
                    name=name,
                    daemon_crashes=crashes.daemon_crashes,
                    machine_crashes=crashes.machine_crashes,
                )

    def close(self) -> None:
        """Record the clean end of the run. Raises `UnwritableError`."""
        self.store.end_run(self.clock.utc())

    # -- queries -----------------------------------------------------------------------------

    def touched(self) -> set[str]:
        """Return a set to which names of added, changed and removed records are added from now on.

        The caller clears the set.
        """
        names: set[str] = set()
        self._touched.append(names)
        return names

    def _touch(self, name: str) -> None:
        for names in self._touched:
            names.add(name)

    def active_states(self) -> list[RecordState]:
        """Return the records that a pass processes."""
        self.active &= self.states.keys()
        return [self.states[name] for name in self.active]

    def named(self, name: str) -> str | None:
        """Return the record of that name, or else the record with that alias."""
        return name if name in self.states else self.aliases.owner(name)

    def candidates(self, model: str) -> list[RecordState]:
        """Return the record of that name or alias, or those of that model without an adapter."""
        if (name := self.named(model)) is not None:
            return [self.states[name]]
        model = model.lower()
        specs = ((state, state.record.spec) for state in self.states.values())
        return [s for s, spec in specs if spec.adapter is None and spec.model.lower() == model]

    @contextmanager
    def asking(self, model: str) -> Iterator[None]:
        """Mark `model` as awaited by a request for the duration of the block."""
        self._asked[model] += 1
        try:
            yield
        finally:
            self._asked[model] -= 1
            self._asked = +self._asked
            self.wake.set()

    def busy(self) -> frozenset[str]:
        """Names of records with requests in flight or waiters."""
        asked = {s.record.name for model in self._asked for s in self.candidates(model)}
        return frozenset(asked | {s.record.name for s in self.active_states() if s.busy})

    # -- desired state -----------------------------------------------------------------------

    def put(self, record: Record) -> RecordState:
        """Persist a record and apply it. Raises `LoadError`, including `UnwritableError`."""
        failed = self.put_all([record])
        if record.name in failed:
            raise LoadError(failed[record.name])
        return self.states[record.name]

    def put_all(
        self, records: Iterable[Record], removals: Mapping[str, Problem] = NOTHING
    ) -> dict[str, Problem]:
        """Persist and apply records and removals in one transaction. Raises `UnwritableError`.

        `removals` maps names to the problem that waiters receive. Returns, by name, the problems of
        records that cannot be encoded; these are left out.
        """
        failed: dict[str, Problem] = {}
        at = self.clock.utc()
        written: list[tuple[Record, Status]] = []
        with self.store.transaction():
            for record in records:
                state = self.states.get(record.name)
                resting = rest(record, idle=False) if state is None else None
                if resting is not None:  # a pass would change nothing
                    status = derive(record, Status(), None, resting, at)
                elif state is None:
                    status = pending(Status(), at)
                elif state.record.generation != record.generation:
                    status = pending(state.status, at)
                else:
                    status = state.status
                try:
                    with self.store.transaction():
                        self.store.put(record, status, at)
                        if resting is not None:
                            self.store.note_outcome(record, "Suspended", resting.message, at, None)
                except (TypeError, ValueError) as error:
                    failed[record.name] = _not_stored(record, error)
                else:
                    written.append((record, status))
            for name in removals:
                self.store.remove(name, at)
        for problem in failed.values():
            log.warning("a record was not stored", why=problem.message)
        for record, status in written:
            self.take_up(record, status)
        for name, problem in removals.items():
            self.forget(name, problem)
        self.announce()
        self.wake.set()
        return failed

    def remove(self, name: str, problem: Problem) -> None:
        """Remove a record; waiters receive `problem`. Raises `UnwritableError`."""
        self.put_all((), {name: problem})

    def take_up(self, record: Record, status: Status) -> RecordState:
        """Apply a record and a status that have been persisted."""
        now = self.clock.monotonic()
        state = self.states.get(record.name)
        self.records[record.name] = record
        self.aliases.put(record)
        self._touch(record.name)
        if state is None:
            stored = Stored(record, status)
            state = self.states[record.name] = RecordState(record, status, now, stored)
            state.judge(status, rest(record, idle=False))
            self._emit_change(None, record)
            self.emit_transition(record, Status(), status)
        else:
            before = state.view
            state.respec(record, status, now)
            self._emit_change(before.record, record)
            self.emit_transition(record, before.status, status)
        if not state.settled:
            self.active.add(record.name)
        return state

    def forget(self, name: str, problem: Problem) -> None:
        """Drop a record that has been deleted from disk; waiters receive `problem`."""
        state = self.states.pop(name)
        del self.records[name]
        self.aliases.drop(name)
        self._touch(name)
        self.active.discard(name)
        log.info("record removed", name=name, reason=problem.message)
        generation = state.record.generation
        self.events.emit("record", name, "Removed", problem.message, generation=generation)
        state.remove(problem)

    def clear(self, state: RecordState) -> None:
        """Clear a record's failures and crashes, so that it is retried immediately.

        Raises `UnwritableError`.
        """
        before, name = state.view, state.record.name
        status = before.status if before.status.ready else pending(before.status, self.clock.utc())
        with self.store.transaction():
            self.store.put_status(name, status)
            self.store.suspect(name, None)
        state.clear(status, self.clock.monotonic())
        log.info("record cleared", name=name)
        words = "failures cleared; retrying immediately"
        generation = state.record.generation
        self.events.emit("record", name, "Cleared", words, generation=generation)
        self.emit_transition(state.record, before.status, status)
        self.activate(name)

    def wake_up(self, name: str) -> None:
        """Mark a record as used and reload it if it is idle. Raises `UnwritableError`."""
        state = self.states[name]
        state.touch(self.clock.monotonic())
        if state.idle:
            before, status = state.status, pending(state.status, self.clock.utc())
            self.store.put_status(name, status)
            state.wake(status, self.clock.monotonic())
            self.emit_transition(state.record, before, status)
            self.activate(name)

    def activate(self, name: str) -> None:
        """Schedule a record for the next pass, and trigger that pass."""
        self.active.add(name)
        self.announce()
        self.wake.set()

    # -- events ------------------------------------------------------------------------------

    def _emit_change(self, before: Record | None, record: Record) -> None:
        """Emit an event and a log line if a record was created, changed or given another owner."""
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

    def emit_transition(self, record: Record, before: Status, status: Status) -> None:
        """Emit an event and a log line if a condition changed, rather than on each pass."""
        ready = status.condition("Ready")
        if ready is None or _states(before) == _states(status):
            return
        name, generation = record.name, record.generation
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

    def _emit_writable(self, problem: Problem | None) -> None:
        """Emit an event and a log line when writing starts to fail and when it recovers."""
        if problem is not None:
            log.error("the state cannot be written", why=problem.message)
            self.events.emit("state", STATE, "Unwritable", problem.message)
        else:
            log.info("the state can be written again")
            self.events.emit("state", STATE, "Writable", "pending changes have been written")
        self.announce()
        self.wake.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is evaluated after every change."""
        while not condition():
            await self._changed.wait()

    def announce(self) -> None:
        """Wake all waiters for a change."""
        self._changed.set()
        self._changed = asyncio.Event()


def _not_stored(record: Record, error: Exception) -> Problem:
    """Build the problem of a record that cannot be encoded, such as text with invalid Unicode."""
    words = f"{record.name!a} ({record.place!a}) cannot be stored: {error}"
    return Problem(Reason.IMPOSSIBLE_SETTING, words)


def _states(status: Status) -> list[tuple[str, str, str]]:
    return [(c.type, c.status, c.reason) for c in status.conditions]
