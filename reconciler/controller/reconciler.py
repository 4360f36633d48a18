"""Makes instances agree with records, one pass after the other.

    observe   what has ended, what is loaded, who is idle, which files are to be looked at
    plan      core's `plan`: an action for each record that needs one
    report    each record's status, history and answer, derived from that
    commit    reports, ends of attempts and the attempts that begin, in one transaction
    act       start what was planned; answer whoever waits

A pass is one step of the event loop: nothing changes under it, and it waits for nothing. What takes
time (reading files, the engine's work) goes on beside it and wakes the next pass. The queue is one
flag: a change sets it and a pass clears it before it looks, so no change is lost.

Where nothing can be written, no load begins; what is so is taken up all the same, and the next pass
that can write makes up for it. An error in planning or reporting one record is the condition of
that record. A pass that fails as a whole is tried again, and `problem` says so.
"""

import asyncio
from collections.abc import Collection, Mapping

import structlog

from reconciler.controller.actions import RETRY_SECONDS, Actions, Engine
from reconciler.controller.attempts import AttemptLog
from reconciler.controller.leases import MemoryLeases
from reconciler.controller.lookups import PATIENCE_SECONDS, RECHECK_SECONDS, Lookups
from reconciler.controller.machine import learn
from reconciler.controller.metrics import Metrics
from reconciler.controller.outcomes import Outcomes
from reconciler.controller.planning import Planning
from reconciler.controller.registry import Registry
from reconciler.controller.report import Report, judge_safely, take, write
from reconciler.controller.state import Phase, RecordState
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Machine
from reconciler.core.memory import MemoryPolicy
from reconciler.core.plan import Action, Kind, put_off
from reconciler.core.records import Instance, ModelRef
from reconciler.store import UnwritableError

log = structlog.get_logger()

WRITE_AGAIN_SECONDS = 5.0
"""Before what could not be written down is tried again."""

UNLOCKED_SECONDS = 0.5
"""The same where another program locks the database."""

UNHEALTHY_PASSES = 3
"""Passes that fail in a row before the daemon says that it is not well."""


class Reconciler:
    """Runs passes. Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        engine: Engine,
        metrics: Metrics,
        memory: MemoryPolicy,
    ) -> None:
        self.machine: Machine | Problem | None = None
        """None until the first worker has answered; a problem while none can be started."""
        self.problem: Problem | None = None
        """Why passes fail, where several have in a row."""
        self._registry = registry
        self._clock = registry.clock
        self._lookups = lookups
        self._engine = engine
        self._metrics = metrics
        self._memory = memory
        self._attempts = AttemptLog(registry.store, registry.clock)
        self.leases = MemoryLeases(engine, self._available_memory, registry.clock)
        self._actions = Actions(
            engine,
            self.leases,
            registry.clock,
            registry.events,
            registry.wake.set,
            self._is_still_right,
        )
        self._outcomes = Outcomes(registry, self._actions, self._attempts, metrics)
        self.planning = Planning(
            registry, lookups, engine, self._actions.running, evicts=memory.evict_idle
        )
        self._failed_passes = 0
        self._write_again_at = 0.0
        """Monotonic time before which a state directory that cannot be written is left alone."""

    @property
    def running(self) -> Mapping[str, Action]:
        """The actions under way, by name."""
        return self._actions.running()

    async def known_machine(self) -> Machine:
        """The facts of the machine, once known. Raises `LoadError` if no worker can be started."""
        await self._registry.until(lambda: self.machine is not None)
        if isinstance(self.machine, Problem):
            raise LoadError(self.machine)
        assert self.machine is not None  # noqa: S101  awaited above
        return self.machine

    def is_gone(self, name: str) -> bool:
        """True if no record, no instance and no action has that name."""
        held = any(i.name == name for i in self._engine.instances())
        return not (name in self._registry.states or name in self._actions or held)

    async def run(self) -> None:
        """Reconcile for ever."""
        machine = await learn(self._engine, self._memory, self._clock, self._note_machine)
        while True:
            self._registry.wake.clear()
            await self._until_woken(self._try_pass(machine))
            await asyncio.sleep(0)  # a pass that wakes the next one lets others run

    async def close(self) -> None:
        """Interrupt the actions under way, and write how they ended."""
        for end in await self._actions.close():
            self._attempts.end(end.attempt, end.outcome)
        loaded = [i.name for i in self._engine.instances()]
        try:
            self._attempts.write(loaded)
        except UnwritableError as error:
            log.warning("the end of an attempt is not written", why=error.problem.message)

    async def _until_woken(self, wait: float | None) -> None:
        wake = self._registry.wake
        timer = self._clock.call_later(wait, wake.set) if wait is not None else None
        try:
            await wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _try_pass(self, machine: Machine) -> float | None:
        """One pass, whatever it raises: everything relies on there being another one."""
        try:
            with self._metrics.a_pass():
                wait = self._pass(machine)
        except Exception as error:
            self._failed_passes += 1
            if self._failed_passes == 1:
                log.exception("pass failed; it is tried again")
            if self._failed_passes >= UNHEALTHY_PASSES and self.problem is None:
                words = f"records are not reconciled: {Problem.of_error(error).message}"
                self.problem = Problem(Reason.INTERNAL_ERROR, words, permanent=False)
                log.error("passes fail", passes=self._failed_passes, why=words)
                self._registry.announce()
            return RETRY_SECONDS
        if self._failed_passes:
            log.info("passes work again", failed=self._failed_passes)
            self._failed_passes, self.problem = 0, None
        return wait

    def _note_machine(self, machine: Machine | Problem) -> None:
        self.machine = machine
        self._registry.announce()

    # -- the pass ----------------------------------------------------------------------------

    def _pass(self, machine: Machine) -> float | None:
        """One pass. Returns after how many seconds time alone calls for the next."""
        at = self._clock.monotonic()
        instances = {i.name: i for i in self._engine.instances()}
        self._outcomes.take_up(at)
        next_idle = self._observe(instances, at)
        states = self._registry.active_states()
        self._refresh_lookups(states)
        planned = self.planning.next_actions(machine)
        planned = self._commit(planned, states, instances, at)
        ends = [a.until for a in planned] + [next_idle]
        times = [end - at for end in ends if end is not None]
        if self._registry.store.problem is not None:
            times.append(max(0.0, self._write_again_at - at))
        if any(s.phase is Phase.NEW for s in states):
            times.append(PATIENCE_SECONDS)
        if states:
            times.append(RECHECK_SECONDS)
        return max(0.0, min(times)) if times else None

    # -- observe -----------------------------------------------------------------------------

    def _observe(self, instances: Mapping[str, Instance], at: float) -> float | None:
        """Note what is loaded and who is idle, and cancel what is not wanted any more.

        Returns when the next record will be idle.
        """
        registry = self._registry
        registry.active |= instances.keys() & registry.states.keys()
        self._outcomes.cancel_unwanted(instances)
        busy = registry.busy()
        ends = []
        for state in registry.active_states():
            name = state.record.name
            state.note_loaded(at if name in instances else None)
            usable = name in instances and name not in busy and name not in self._actions
            ends.append(state.note_idle(at, usable=usable))
        return min((end for end in ends if end is not None), default=None)

    def _is_still_right(self, action: Action) -> bool:
        """True if a record still asks for what a load brings about, and its weights are there."""
        checkpoint = action.checkpoint
        if checkpoint is not None and not action.reads_weights:
            there = {instance.checkpoint for instance in self._engine.instances()}
            if checkpoint.path not in there:  # they would be read beside others
                return False
        state = self._registry.states.get(action.name)
        if state is None or action.spec is None or state.record.spec.suspend:
            return False
        wanted = (state.record.spec, state.record.last_good)
        return any(spec is not None and action.spec.loads_like(spec) for spec in wanted)

    def _refresh_lookups(self, states: Collection[RecordState]) -> None:
        """Have the files looked at of the models that records ask for, where that is due."""
        wanted: dict[ModelRef, float] = {}
        downloadable = set()
        for state in states:
            record = state.record
            if record.spec.suspend:
                continue
            if record.spec.download == "if-missing":
                downloadable.add(record.spec.ref)
            for spec in (record.spec, record.last_good):
                if spec is not None:
                    wanted[spec.ref] = max(wanted.get(spec.ref, 0.0), state.queued_at)
        self._lookups.refresh(wanted, downloadable)

    # -- report, commit, act -----------------------------------------------------------------

    def _commit(
        self,
        planned: tuple[Action, ...],
        states: Collection[RecordState],
        instances: Mapping[str, Instance],
        at: float,
    ) -> tuple[Action, ...]:
        """Report, write all of it down, and start what was planned; returns what then holds."""
        unwritable = self._still_unwritable(at)
        begun: dict[str, int] = {}
        if unwritable is None:
            undoing = {s.record.name for s in states if s.undo is not None}
            planned = tuple(a for a in planned if a.spec is None or a.name not in undoing)
            reports = self._reports(planned, states, instances, None)
            try:
                begun, reports = self._write(planned, reports, instances)
            except UnwritableError as error:
                unwritable = error.problem
                self._write_again_at = at + self._pause
        if unwritable is not None:  # an action that cannot be written down must not start
            again = self._write_again_at
            planned = tuple(put_off(a.name, unwritable, again) if a.spec else a for a in planned)
            reports = self._reports(planned, states, instances, unwritable)
        for action in planned:
            if action.acts:
                self._begin(action, begun.get(action.name), at)
        for report in reports:
            try:
                take(self._registry, report, written=unwritable is None)
            except Exception:
                log.exception("a report cannot be taken up", name=report.record.name)
        self._registry.announce()
        self._metrics.retain_only(self._registry.states)
        self._engine.retain_only(self._registry.states)
        return planned

    def _reports(
        self,
        planned: tuple[Action, ...],
        states: Collection[RecordState],
        instances: Mapping[str, Instance],
        unwritable: Problem | None,
    ) -> list[Report]:
        actions = {a.name: a for a in planned} | self._actions.running()
        now = self._clock.utc()
        reports = []
        for state in states:
            record = state.record
            action, instance = actions.get(record.name), instances.get(record.name)
            reading = action is not None and action.reason is Reason.READING_CHECKPOINT
            if reading and state.phase is Phase.NEW and self._lookups.is_fresh(record.spec.ref):
                continue  # that it is new is all there is to say
            resting = record.spec.suspend and instance is None
            on_disk = None if resting else self._lookups.checkpoint(record.spec.ref)
            reports.append(judge_safely(state, instance, action, now, on_disk, unwritable))
        return reports

    def _write(
        self,
        planned: tuple[Action, ...],
        reports: list[Report],
        instances: Mapping[str, Instance],
    ) -> tuple[dict[str, int], list[Report]]:
        """The pass's one transaction, if there is anything to write. Raises `UnwritableError`."""
        states = self._registry.states
        acting = [(a, s.record if (s := states.get(a.name)) else None) for a in planned if a.acts]
        changed = [r for r in reports if r.changed]
        if not (acting or changed or self._attempts.is_due(instances)):
            return {}, reports
        with self._registry.store.transaction():
            self._attempts.write(instances)
            begun = self._attempts.begin(acting)
            written = write(self._registry, changed)
        self._attempts.note_written(instances)
        if len(written) < len(changed):
            left_out = {r.record.name for r in changed} - {r.record.name for r in written}
            reports = [r for r in reports if r.record.name not in left_out]
        return begun, reports

    def _still_unwritable(self, at: float) -> Problem | None:
        """Why nothing can be written; it is tried from time to time."""
        store = self._registry.store
        if store.problem is None:
            return None
        if at < self._write_again_at:
            return store.problem
        self._write_again_at = at + self._pause
        return store.try_to_write()

    @property
    def _pause(self) -> float:
        """Seconds until writing is tried again."""
        return UNLOCKED_SECONDS if self._registry.store.locked else WRITE_AGAIN_SECONDS

    def _begin(self, action: Action, attempt: int | None, at: float) -> None:
        state = self._registry.states.get(action.name)
        record = state.record if state is not None else None
        queued = at - state.queued_at if state is not None else 0.0
        self._actions.begin(action, record, attempt, queued)

    # -- what others ask ---------------------------------------------------------------------

    def worker_died(self, instance: Instance, problem: Problem) -> None:
        """Take note that an instance is gone, and say so at once; the next pass sees to it."""
        self._metrics.worker_died(problem.reason.value)
        registry, name = self._registry, instance.name
        state = registry.states.get(name)
        if state is not None:
            record, at = state.record, self._clock.utc()
            state.die(self._clock.monotonic())
            self._outcomes.fail(state, record, instance.spec, None, problem)
            action = self._actions.running().get(name) or Action(
                Kind.WAIT, name, problem.message, reason=Reason.BACKING_OFF, problem=problem
            )
            on_disk = self._lookups.checkpoint(record.spec.ref)
            report = judge_safely(state, None, action, at, on_disk, None)
            before = state.status
            state.judge(report.status, action)
            registry.emit_transition(record, before, state.status)
            registry.activate(name)
        registry.wake.set()

    def _available_memory(self, leased: Mapping[str, int]) -> int:
        """Bytes of the budget that nobody holds, given what is leased by checkpoint."""
        if self.machine is None or isinstance(self.machine, Problem):
            return 0
        ledger = self.planning.held_memory(self.machine)
        ledger.leased = leased
        return ledger.budget - ledger.used
