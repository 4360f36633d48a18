"""Reconciles instances with records in a loop of passes.

    observe   collect ended actions, loaded and idle instances, and model files due for a lookup
    plan      core's `plan`: an action for each record that needs one
    report    derive each record's status, history and reply to waiters from the plan
    commit    write reports, ended attempts and new attempts in one transaction
    act       start the planned actions and answer waiters

A pass is a single step of the event loop: no state changes during it, and it never awaits. Slow
work (reading files, loading) runs concurrently and wakes the next pass. The queue is a single
flag that every change sets and a pass clears before it observes, so no change is lost.

If the state directory cannot be written, no load starts; observed state is still taken into
memory, and the next pass that can write persists it. An error in planning or reporting one record
becomes a condition of that record. A pass that fails as a whole is retried and reported in
`problem`.
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
"""Seconds before a failed write of the state directory is retried."""

UNLOCKED_SECONDS = 0.5
"""The same delay while another program holds a lock on the database."""

UNHEALTHY_PASSES = 3
"""Consecutive failed passes after which the daemon reports itself unhealthy."""


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
        """Facts about the machine; None until a worker answers, a problem if none starts."""
        self.problem: Problem | None = None
        """Error of the passes, if several in a row have failed."""
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
        """Monotonic time of the next write attempt after a failed one."""

    @property
    def running(self) -> Mapping[str, Action]:
        """Running actions, by name."""
        return self._actions.running()

    async def known_machine(self) -> Machine:
        """Wait for the facts about the machine. Raises `LoadError` if no worker can be started."""
        await self._registry.until(lambda: self.machine is not None)
        if isinstance(self.machine, Problem):
            raise LoadError(self.machine)
        assert self.machine is not None  # noqa: S101  awaited above
        return self.machine

    def is_gone(self, name: str) -> bool:
        """True if no record, instance or action has that name."""
        held = any(i.name == name for i in self._engine.instances())
        return not (name in self._registry.states or name in self._actions or held)

    async def run(self) -> None:
        """Run passes for ever."""
        machine = await learn(self._engine, self._memory, self._clock, self._note_machine)
        while True:
            self._registry.wake.clear()
            await self._until_woken(self._try_pass(machine))
            await asyncio.sleep(0)  # a pass that wakes the next one lets others run

    async def close(self) -> None:
        """Interrupt the running actions and record their outcomes."""
        for end in await self._actions.close():
            self._attempts.end(end.attempt, end.outcome)
        loaded = [i.name for i in self._engine.instances()]
        try:
            self._attempts.write(loaded)
        except UnwritableError as error:
            log.warning("could not record the end of an attempt", why=error.problem.message)

    async def _until_woken(self, wait: float | None) -> None:
        wake = self._registry.wake
        timer = self._clock.call_later(wait, wake.set) if wait is not None else None
        try:
            await wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _try_pass(self, machine: Machine) -> float | None:
        """Run a pass and catch any exception, so that the loop continues."""
        try:
            with self._metrics.a_pass():
                wait = self._pass(machine)
        except Exception as error:
            self._failed_passes += 1
            if self._failed_passes == 1:
                log.exception("pass failed; retrying")
            if self._failed_passes >= UNHEALTHY_PASSES and self.problem is None:
                words = f"records are not reconciled: {Problem.of_error(error).message}"
                self.problem = Problem(Reason.INTERNAL_ERROR, words, permanent=False)
                log.error("passes keep failing", passes=self._failed_passes, why=words)
                self._registry.announce()
            return RETRY_SECONDS
        if self._failed_passes:
            log.info("passes succeed again", failed=self._failed_passes)
            self._failed_passes, self.problem = 0, None
        return wait

    def _note_machine(self, machine: Machine | Problem) -> None:
        self.machine = machine
        self._registry.announce()

    # -- the pass ----------------------------------------------------------------------------

    def _pass(self, machine: Machine) -> float | None:
        """Run a pass. Returns the seconds until the next pass is due without another event."""
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
        """Update loaded and idle times, and cancel loads that are no longer wanted.

        Returns the monotonic time at which the next record becomes idle.
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
        """True if a record still wants the result of a load, and its shared weights are loaded."""
        checkpoint = action.checkpoint
        if checkpoint is not None and not action.reads_weights:
            there = {instance.checkpoint for instance in self._engine.instances()}
            if checkpoint.path not in there:  # its weights would be read in addition to others
                return False
        state = self._registry.states.get(action.name)
        if state is None or action.spec is None or state.record.spec.suspend:
            return False
        wanted = (state.record.spec, state.record.last_good)
        return any(spec is not None and action.spec.loads_like(spec) for spec in wanted)

    def _refresh_lookups(self, states: Collection[RecordState]) -> None:
        """Start due lookups of the models that records refer to."""
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
        """Report, persist, and start the planned actions; returns the actions finally taken."""
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
        if unwritable is not None:  # an action that cannot be recorded must not start
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
                log.exception("could not apply a report", name=report.record.name)
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
                continue  # nothing to report yet
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
        """Persist the pass in one transaction, if anything changed. Raises `UnwritableError`."""
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
        """Problem that prevents writing, if any; writing is retried at intervals."""
        store = self._registry.store
        if store.problem is None:
            return None
        if at < self._write_again_at:
            return store.problem
        self._write_again_at = at + self._pause
        return store.try_to_write()

    @property
    def _pause(self) -> float:
        """Seconds until the next write attempt."""
        return UNLOCKED_SECONDS if self._registry.store.locked else WRITE_AGAIN_SECONDS

    def _begin(self, action: Action, attempt: int | None, at: float) -> None:
        state = self._registry.states.get(action.name)
        record = state.record if state is not None else None
        queued = at - state.queued_at if state is not None else 0.0
        self._actions.begin(action, record, attempt, queued)

    # -- queries -----------------------------------------------------------------------------

    def worker_died(self, instance: Instance, problem: Problem) -> None:
        """Record the death of an instance and report it immediately; the next pass handles it."""
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
        """Free bytes of the budget, given the leased bytes by checkpoint."""
        if self.machine is None or isinstance(self.machine, Problem):
            return 0
        ledger = self.planning.held_memory(self.machine)
        ledger.leased = leased
        return ledger.budget - ledger.used
