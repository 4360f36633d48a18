"""Book + engine -> actions -> book: one pass looks at everything, as often as one likes.

The queue is one flag: a change sets it, a pass clears it before it looks, so a change during a
pass or an action is never lost.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from reconciler.controller.book import Book, Entry
from reconciler.controller.clock import sleep
from reconciler.core import backoff
from reconciler.core.conditions import derive
from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.plan import Action, Facts, Kind, plan
from reconciler.core.records import HTTP, Instance, LoadReport, LoadSpec, Record, Status
from reconciler.core.settings import Resolved
from reconciler.models.catalog import Catalog

log = structlog.get_logger()

RECHECK_SECONDS = 30.0
"""Between looks at the files of a record that cannot be loaded; they may have been mended."""

RETRY_SECONDS = 1.0
"""After a pass or an action that failed in a way that nobody foresaw."""

ENGINE_RETRY_SECONDS = 5.0
"""Between attempts to start the first worker."""


class Engine(Protocol):
    """What loads models."""

    async def machine(self) -> Machine: ...
    def instances(self) -> tuple[Instance, ...]: ...
    async def load(
        self,
        name: str,
        spec: LoadSpec,
        checkpoint: Checkpoint,
        resolved: Resolved,
        *,
        unload_first: bool = False,
    ) -> LoadReport: ...
    async def unload(self, name: str) -> None: ...
    async def close(self) -> None: ...


class Loop:
    """Makes instances agree with records."""

    def __init__(self, book: Book, catalog: Catalog, engine: Engine) -> None:
        self.machine: Machine | Problem | None = None
        """None until the first worker has answered; a problem while none can be started."""
        self.running: dict[str, Action] = {}
        self._book = book
        self._clock = book.clock
        self._catalog = catalog
        self._engine = engine
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Reconcile for ever."""
        machine = await self._learn_machine()
        while True:
            self._book.wake.clear()
            try:
                await self._look_up_checkpoints()
                wait = self._pass(machine)
            except Exception:
                # Everything else relies on this loop: it goes on.
                log.exception("pass failed; it is tried again")
                wait = RETRY_SECONDS
            await self._until_woken(wait)

    async def _until_woken(self, wait: float | None) -> None:
        timer = self._clock.call_later(wait, self._book.wake.set) if wait is not None else None
        try:
            await self._book.wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    async def close(self) -> None:
        """Interrupt the actions under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def admit(self, record: Record, checkpoint: Checkpoint, machine: Machine) -> None:
        """Refuse at once what the plan would not load. Raises `LoadError`."""
        records = self._book.records() | {record.name: record}
        facts = self._facts()
        facts = replace(facts, checkpoints={**facts.checkpoints, record.name: checkpoint})
        instances = self._engine.instances()
        for action in plan(
            list(records.values()), instances, facts, machine, self._clock.monotonic()
        ):
            if action.name == record.name and action.problem is not None:
                raise LoadError(action.problem)

    def worker_died(self, name: str, problem: Problem) -> None:
        """Take note that an instance is gone; the next pass sees to it."""
        entry = self._book.entries.get(name)
        if entry is not None:
            entry.queued_at = self._clock.monotonic()
            entry.status = replace(entry.status, restarts=entry.status.restarts + 1)
            self._note_failure(entry, entry.record.generation, None, problem)
        self._book.wake.set()

    # -- observe ---------------------------------------------------------------------------

    async def _learn_machine(self) -> Machine:
        while True:
            try:
                machine = await self._engine.machine()
            except LoadError as error:
                message = f"no worker can be started: {error.problem.message}"
                if self.machine is None:
                    log.error("no worker can be started", reason=error.problem.message)
                self.machine = Problem(Cause.ENGINE_UNAVAILABLE, message, permanent=False)
                self._book.announce()
                await sleep(self._clock, ENGINE_RETRY_SECONDS)
            else:
                self.machine = machine
                log.info("mlx is ready", device=machine.device, budget=machine.memory_budget)
                self._book.announce()
                return machine

    async def _look_up_checkpoints(self) -> None:
        """Read the files of the records that need it."""
        loaded = {i.name: i.spec for i in self._engine.instances()}
        for entry in list(self._book.entries.values()):
            record = entry.record
            model = record.spec.model
            fresh = self._clock.monotonic() - entry.checked_at < RECHECK_SECONDS
            if entry.checked_model == model and (fresh or loaded.get(record.name) == record.spec):
                continue
            try:
                found: Checkpoint | Problem = await asyncio.to_thread(self._catalog.find, model)
            except LoadError as error:
                found = error.problem
            entry.found(model, found, self._clock.monotonic())

    def _facts(self) -> Facts:
        entries = self._book.entries
        return Facts(
            checkpoints={
                name: e.checkpoint
                for name, e in entries.items()
                if e.checkpoint is not None and e.checked_model == e.record.spec.model
            },
            retries={name: e.retry for name, e in entries.items() if e.retry is not None},
            running=self.running,
        )

    # -- plan ------------------------------------------------------------------------------

    def _pass(self, machine: Machine) -> float | None:
        """One pass. Returns after how many seconds time alone calls for the next."""
        at = self._clock.monotonic()
        records = list(self._book.records().values())
        planned = plan(records, self._engine.instances(), self._facts(), machine, at)
        actions = {action.name: action for action in planned}
        for action in planned:
            if action.acts:
                self._begin(action)
        self._report(actions)
        times = [a.until - at for a in planned if a.until is not None]
        if any(a.kind is Kind.HOLD for a in planned):
            times.append(RECHECK_SECONDS)
        return max(0.0, min(times)) if times else None

    # -- act -------------------------------------------------------------------------------

    def _begin(self, action: Action) -> None:
        entry = self._book.entries.get(action.name)
        self.running[action.name] = action
        task = asyncio.create_task(self._act(action, entry.record if entry is not None else None))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _act(self, action: Action, record: Record | None) -> None:
        """Carry out one action; whatever happens, its record is free again afterwards."""
        try:
            await self._attempt(action, record)
        except Exception:
            log.exception("action could not be written down", name=action.name)
            await sleep(self._clock, RETRY_SECONDS)
        finally:
            del self.running[action.name]
            self._book.announce()
            self._book.wake.set()

    async def _attempt(self, action: Action, record: Record | None) -> None:
        """Write down that an action starts, carry it out, and write down how it went."""
        kind, name = action.kind.value, action.name
        store = self._book.store
        generation = record.generation if record is not None else 0
        attempt = store.begin_attempt(name, generation, kind, action.reason, self._clock.utc())
        log.info("action started", action=kind, name=name, reason=action.reason)
        entry = self._book.entries.get(name)
        queued = self._clock.monotonic() - entry.queued_at if entry is not None else 0.0
        report: LoadReport | None = None
        problem: Problem | None = None
        try:
            report = await self._carry_out(action, record)
        except LoadError as error:
            problem = error.problem
        except asyncio.CancelledError:
            store.end_attempt(attempt, "interrupted by a stop", self._clock.utc())
            raise
        except Exception as error:
            log.exception("action failed unexpectedly", name=name)
            words = f"{type(error).__name__}: {error}"
            problem = Problem(Cause.LOAD_FAILED, words, permanent=False)
        outcome = problem.message if problem is not None else "succeeded"
        store.end_attempt(attempt, outcome, self._clock.utc())
        log.info("action ended", action=kind, name=name, outcome=outcome)
        if record is not None:
            self._settle(record, action, report, problem, queued)
        if problem is not None and action.kind is Kind.UNLOAD:
            await sleep(self._clock, RETRY_SECONDS)  # it has no back-off of its own

    async def _carry_out(self, action: Action, record: Record | None) -> LoadReport | None:
        if record is None or action.checkpoint is None or action.resolved is None:
            await self._engine.unload(action.name)
            return None
        return await self._engine.load(
            action.name,
            record.spec,
            action.checkpoint,
            action.resolved,
            unload_first=action.unload_first,
        )

    def _settle(
        self,
        record: Record,
        action: Action,
        report: LoadReport | None,
        problem: Problem | None,
        queued: float,
    ) -> None:
        """Note the outcome in the record's entry, if it is still the same record."""
        entry = self._book.entries.get(record.name)
        if entry is None or entry.record.created_at != record.created_at:
            return
        checkpoint, resolved = action.checkpoint, action.resolved
        if problem is not None:
            revision = checkpoint.revision if checkpoint is not None else None
            self._note_failure(entry, record.generation, revision, problem)
        elif report is not None and checkpoint is not None and resolved is not None:
            entry.retry = None
            entry.status = replace(
                entry.status,
                load_time_seconds=report.load_time_seconds,
                queued_seconds=queued,
                load_phases=report.phases,
                memory_bytes=report.memory_bytes,
                warnings=resolved.warnings,
                checkpoint=checkpoint.path,
            )
            self._book.put(replace(entry.record, provisional=False, last_good=record.spec))

    def _note_failure(
        self, entry: Entry, generation: int, revision: str | None, problem: Problem
    ) -> None:
        entry.retry = backoff.after(
            entry.retry,
            generation,
            revision,
            problem,
            self._clock.monotonic(),
            self._clock.chance(),
        )

    # -- report ----------------------------------------------------------------------------

    def _report(self, actions: Mapping[str, Action]) -> None:
        """Derive every status anew, and answer whoever waited for one."""
        loaded = {i.name: i for i in self._engine.instances()}
        for name, entry in list(self._book.entries.items()):
            action = self.running.get(name, actions.get(name))
            before = entry.status
            status = derive(entry.record, before, loaded.get(name), action, self._clock.utc())
            if status != before:
                self._book.put_status(entry, status)
                _log_transition(name, before, status)
            if status.ready:
                entry.succeed()
            elif action is not None and action.problem is not None:
                self._give_up(entry, action.problem)
            elif action is not None and action.kind is Kind.HOLD:
                entry.fail(Problem(Cause.SUSPENDED, f"'{name}' is {action.reason}"))

    def _give_up(self, entry: Entry, problem: Problem) -> None:
        """An http wish that failed is undone; a manifest's goes on being tried."""
        record = entry.record
        if record.provisional:
            self._book.remove(record.name, problem)
            return
        entry.fail(problem)
        previous = record.last_good
        if record.owner == HTTP and previous is not None and previous != record.spec:
            log.info("update undone", name=record.name, reason=problem.message)
            self._book.put(record.with_spec(previous))


def _log_transition(name: str, before: Status, after: Status) -> None:
    old, new = before.condition("Ready"), after.condition("Ready")
    if new is not None and (old is None or (old.status, old.reason) != (new.status, new.reason)):
        log.info("ready changed", name=name, status=new.status, reason=new.reason, why=new.message)
