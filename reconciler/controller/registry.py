"""The records: on disk first, and then in memory.

What is wanted is written before it is taken up, in one transaction however many records it is;
where it cannot be written, nothing changes. What is so (statuses, crashes) is taken up first, and
written by the reconciler's next pass. Records that rest are left alone by passes: `active` names
the others.
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
"""The name under which events speak of the state directory."""

NOTHING: Mapping[str, Problem] = MappingProxyType({})


class Registry:
    """All records by name. Used on the event loop only."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.events = Events(clock)
        self.states: dict[str, RecordState] = {}
        self.records: dict[str, Record] = {}
        """By name, as they are in `states`."""
        self.aliases = Aliases()
        self._touched: list[set[str]] = []
        """For each who compares records: names of those that came, changed or went."""
        self.active: set[str] = set()
        """Names of the records that the next pass looks at."""
        self._asked: Counter[str] = Counter()
        """Names and models that requests wait for an instance of."""
        store.on_problem = self._emit_writable
        self.wake = asyncio.Event()
        """Set when the reconciler has something to look at."""
        self._changed = asyncio.Event()

    # -- start and stop ----------------------------------------------------------------------

    def open(self, owners: Collection[str], boot_id: str) -> None:
        """Take up the stored records; those of owners that are not there any more are dropped.

        `boot_id` identifies this start of the machine. Raises `UnwritableError`.
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
        """Take up a stored record; nothing is loaded yet."""
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
        """Begin a run: hold against records what the last one ended with."""
        last, at = self.store.last_run(), self.clock.utc()
        for one in last.interrupted if last is not None else ():
            log.warning("an action was cut short", name=one.name, action=one.action)
        known = self.store.suspicions()
        found = suspicion.after_start(self.records.values(), known, last, boot_id, at)
        self.store.begin_run(boot_id, at, found)
        for name, crashes in found.items():
            self.states[name].blame(crashes)
            if crashes != known.get(name):
                log.warning(
                    "a record was loaded or loading at a crash",
                    name=name,
                    daemon_crashes=crashes.daemon_crashes,
                    machine_crashes=crashes.machine_crashes,
                )

    def close(self) -> None:
        """Note that the run ends as it should. Raises `UnwritableError`."""
        self.store.end_run(self.clock.utc())

    # -- questions ---------------------------------------------------------------------------

    def touched(self) -> set[str]:
        """A set to which the name of each record is added that comes, changes or goes from now on;
        whoever asks empties it.
        """
        names: set[str] = set()
        self._touched.append(names)
        return names

    def _touch(self, name: str) -> None:
        for names in self._touched:
            names.add(name)

    def active_states(self) -> list[RecordState]:
        """What a pass looks at."""
        self.active &= self.states.keys()
        return [self.states[name] for name in self.active]

    def named(self, name: str) -> str | None:
        """The record that has a name, or else to which it belongs as an alias."""
        return name if name in self.states else self.aliases.owner(name)

    def candidates(self, model: str) -> list[RecordState]:
        """The record of that name or alias, or else those of that model without an adapter."""
        if (name := self.named(model)) is not None:
            return [self.states[name]]
        model = model.lower()
        specs = ((state, state.record.spec) for state in self.states.values())
        return [s for s, spec in specs if spec.adapter is None and spec.model.lower() == model]

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
        """Names of records that answer requests, or are waited for."""
        asked = {s.record.name for model in self._asked for s in self.candidates(model)}
        return frozenset(asked | {s.record.name for s in self.active_states() if s.busy})

    # -- desired state -----------------------------------------------------------------------

    def put(self, record: Record) -> RecordState:
        """Write a record and take it up. Raises `LoadError`, `UnwritableError` among them."""
        failed = self.put_all([record])
        if record.name in failed:
            raise LoadError(failed[record.name])
        return self.states[record.name]

    def put_all(
        self, records: Iterable[Record], removals: Mapping[str, Problem] = NOTHING
    ) -> dict[str, Problem]:
        """Write records, remove others, and take that up as one. Raises `UnwritableError`.

        `removals` say why, for whoever waits. Returns why records are left out, by name: those
        that cannot be stored because of what they say.
        """
        failed: dict[str, Problem] = {}
        at = self.clock.utc()
        written: list[tuple[Record, Status]] = []
        with self.store.transaction():
            for record in records:
                state = self.states.get(record.name)
                resting = rest(record, idle=False) if state is None else None
                if resting is not None:  # there is nothing that a pass would find out
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
            log.warning("a record is not taken up", why=problem.message)
        for record, status in written:
            self.take_up(record, status)
        for name, problem in removals.items():
            self.forget(name, problem)
        self.announce()
        self.wake.set()
        return failed

    def remove(self, name: str, problem: Problem) -> None:
        """Remove a record; whoever waits for it is told `problem`. Raises `UnwritableError`."""
        self.put_all((), {name: problem})

    def take_up(self, record: Record, status: Status) -> RecordState:
        """Take up a record and a status that are on disk."""
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
        """Drop a record that is not on disk any more; whoever waits for it is told `problem`."""
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
        """Forget what is held against a record, so that it is tried at once.

        Raises `UnwritableError`.
        """
        before, name = state.view, state.record.name
        status = before.status if before.status.ready else pending(before.status, self.clock.utc())
        with self.store.transaction():
            self.store.put_status(name, status)
            self.store.suspect(name, None)
        state.clear(status, self.clock.monotonic())
        log.info("record cleared", name=name)
        words = "its failures are forgotten; it is tried at once"
        generation = state.record.generation
        self.events.emit("record", name, "Cleared", words, generation=generation)
        self.emit_transition(state.record, before.status, status)
        self.activate(name)

    def wake_up(self, name: str) -> None:
        """Have what is idle loaded again; what is not stays so. Raises `UnwritableError`."""
        state = self.states[name]
        state.touch(self.clock.monotonic())
        if state.idle:
            before, status = state.status, pending(state.status, self.clock.utc())
            self.store.put_status(name, status)
            state.wake(status, self.clock.monotonic())
            self.emit_transition(state.record, before, status)
            self.activate(name)

    def activate(self, name: str) -> None:
        """Have the next pass look at a record, and make one."""
        self.active.add(name)
        self.announce()
        self.wake.set()

    # -- what happens ------------------------------------------------------------------------

    def _emit_change(self, before: Record | None, record: Record) -> None:
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

    def emit_transition(self, record: Record, before: Status, status: Status) -> None:
        """An event and a log line at a transition of conditions, not at each pass."""
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
        """An event and a log line when writing begins to fail, and when it works again."""
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


def _not_stored(record: Record, error: Exception) -> Problem:
    """Why a record cannot be stored, as text that is no Unicode cannot."""
    words = f"{record.name!a} ({record.place!a}) cannot be stored: {error}"
    return Problem(Reason.IMPOSSIBLE_SETTING, words)


def _states(status: Status) -> list[tuple[str, str, str]]:
    return [(c.type, c.status, c.reason) for c in status.conditions]
