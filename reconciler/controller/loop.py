"""Book + engine -> actions -> book: one pass looks at everything, as often as one likes.

The queue is one flag: a change sets it, a pass clears it before it looks, so a change during a
pass or an action is never lost.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

import structlog

from reconciler.controller.book import WRITE_AGAIN_SECONDS, Book, Entry, Found
from reconciler.controller.clock import sleep
from reconciler.controller.inspector import PATIENCE_SECONDS, Inspector
from reconciler.controller.journal import Journal
from reconciler.controller.leases import MemoryLeases
from reconciler.controller.metrics import Metrics
from reconciler.controller.report import Reporter
from reconciler.core import backoff
from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint, Machine, Shapes, Wired
from reconciler.core.memory import Ledger, MemoryPolicy, readable_bytes
from reconciler.core.plan import Action, Facts, Kind, held_memory, plan, put_off
from reconciler.core.protocol import Lease, Reply, Usage
from reconciler.core.records import (
    Instance,
    LoadSpec,
    ModelRef,
    Progress,
    Record,
)
from reconciler.core.settings import Resolved
from reconciler.engine.log import Log
from reconciler.models.download import Downloads
from reconciler.store import UnwritableError

log = structlog.get_logger()

RECHECK_SECONDS = 30.0
"""Between looks at a model's files: they may have been mended, or changed after the load."""

RETRY_SECONDS = 1.0
"""After a pass or an action that failed in a way that nobody foresaw."""

ENGINE_RETRY_SECONDS = 5.0
"""Between attempts to start the first worker."""


class Engine(Protocol):
    """What loads models."""

    async def machine(self) -> Machine: ...
    async def shapes(self, checkpoint: Checkpoint) -> Shapes: ...
    def instances(self) -> tuple[Instance, ...]: ...
    def live_memory(self) -> Mapping[str, int]: ...
    def outgoing(self) -> tuple[Instance, ...]: ...
    async def load(
        self,
        name: str,
        spec: LoadSpec,
        checkpoint: Checkpoint,
        resolved: Resolved,
        progress: Callable[[Progress], None],
        *,
        unload_first: bool = False,
    ) -> None: ...
    async def unload(self, name: str) -> None: ...
    def request(
        self, name: str, path: str, body: bytes, lease: Lease
    ) -> AbstractAsyncContextManager[Reply]: ...
    async def recall(self, leases: Mapping[str, Lease]) -> Mapping[str, int]: ...
    async def tokens(self) -> Mapping[str, Usage]: ...
    def keep(self, names: Collection[str]) -> None: ...
    def log(self, name: str) -> Log | None: ...
    async def close(self) -> None: ...


class Loop:
    """Makes instances agree with records."""

    def __init__(
        self,
        book: Book,
        inspector: Inspector,
        engine: Engine,
        downloads: Downloads,
        metrics: Metrics,
        memory: MemoryPolicy,
    ) -> None:
        self.machine: Machine | Problem | None = None
        """None until the first worker has answered; a problem while none can be started."""
        self.running: dict[str, Action] = {}
        self._book = book
        self._journal = Journal(book)
        self._reporter = Reporter(book)
        self._clock = book.clock
        self._inspector = inspector
        self._engine = engine
        self._downloads = downloads
        self._metrics = metrics
        self._memory = memory
        self.leases = MemoryLeases(engine, self._available_memory, self._clock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._write_again_at = 0.0
        """Monotonic time before which a state directory that cannot be written is left alone."""

    async def run(self) -> None:
        """Reconcile for ever."""
        machine = await self._learn_machine()
        while True:
            self._book.wake.clear()
            try:
                await self._look_up_checkpoints()
                with self._metrics.a_pass():
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
        for action in self.foresee(records, {record.spec.ref: checkpoint}, machine):
            if action.name == record.name and action.problem is not None:
                raise LoadError(action.problem)

    def foresee(
        self,
        records: Mapping[str, Record],
        checkpoints: Mapping[ModelRef, Checkpoint | Problem],
        machine: Machine,
    ) -> tuple[Action, ...]:
        """What the next pass would do if these were the records."""
        facts, now = self._facts(), self._book.records()
        changed = {name for name, record in records.items() if record != now.get(name)}
        facts = replace(
            facts,
            checkpoints={**facts.checkpoints, **checkpoints},
            idle=facts.idle - changed,
            suspected={n: p for n, p in facts.suspected.items() if n not in changed},
        )
        instances = self._engine.instances()
        return plan(list(records.values()), instances, facts, machine, self._clock.monotonic())

    def worker_died(self, instance: Instance, problem: Problem) -> None:
        """Take note that an instance is gone, and say so at once; the next pass sees to it."""
        self._metrics.worker_died(problem.cause.value)
        entry = self._book.entries.get(instance.name)
        if entry is not None:
            entry.queued_at = self._clock.monotonic()
            entry.status = replace(entry.status, restarts=entry.status.restarts + 1)
            self._note_failure(entry, entry.record, instance.spec, None, problem)
            self._reporter.tell_death(entry, problem, self.running.get(instance.name))
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
                offered = machine.memory_budget
                budget = self._memory.budget.of(offered)
                if budget > offered:
                    log.warning("budget is above what the machine offers", offered=offered)
                self.machine = machine = replace(machine, memory_budget=budget)
                log.info("mlx is ready", device=machine.device, budget=machine.memory_budget)
                _tell_wired(machine.wired)
                self._book.announce()
                return machine

    async def _look_up_checkpoints(self) -> None:
        """Read the files of the models that records ask for, where that is due."""
        now = self._clock.monotonic()
        wanted: dict[ModelRef, float] = {}
        downloadable = set()
        for entry in self._book.entries.values():
            if entry.record.spec.download == "if-missing" and not entry.record.spec.suspend:
                downloadable.add(entry.record.spec.ref)
            for spec in (entry.record.spec, entry.record.last_good):
                if spec is not None:
                    wanted[spec.ref] = max(wanted.get(spec.ref, 0.0), entry.queued_at)
        known = self._book.found
        due = [
            ref
            for ref, queued_at in wanted.items()
            if ref not in known
            or now - known[ref].at >= RECHECK_SECONDS
            or known[ref].at < queued_at
        ]
        for ref in known.keys() - wanted.keys():
            del known[ref]
        found = await self._inspector.find_all(due, PATIENCE_SECONDS) if due else {}
        for ref, checkpoint in found.items():
            missing = isinstance(checkpoint, Problem) and checkpoint.cause is Cause.MODEL_NOT_FOUND
            if missing and ref in downloadable:
                checkpoint = self._downloads.missing(ref.base)  # noqa: PLW2901
            known[ref] = Found(checkpoint, now)

    def _facts(self) -> Facts:
        entries = self._book.entries
        return Facts(
            checkpoints={ref: found.checkpoint for ref, found in self._book.found.items()},
            retries={name: e.retry for name, e in entries.items() if e.retry is not None},
            restores={name: e.restore for name, e in entries.items() if e.restore is not None},
            running=self.running,
            idle=frozenset(name for name, e in entries.items() if e.idle),
            busy=self._book.busy(),
            used_at={name: e.used_at for name, e in entries.items()},
            live=self._engine.live_memory(),
            outgoing=self._engine.outgoing(),
            evicts=self._memory.evict_idle,
            suspected=self._book.suspected(),
        )

    def _note_idle(self, now: float) -> float | None:
        """Note who has had no request for as long as its record allows; when the next will."""
        loaded = {i.name for i in self._engine.instances()} - self.running.keys()
        busy = self._book.busy()
        ends = []
        for name, entry in self._book.entries.items():
            ttl = entry.record.spec.idle_ttl_seconds
            if ttl is None:
                entry.idle = False
            elif name in loaded and name not in busy:
                end = entry.used_at + ttl
                entry.idle = end <= now
                ends += [end] if end > now else []
        return min(ends, default=None)

    def held_memory(self, machine: Machine) -> Ledger:
        """Who holds what now."""
        return held_memory(self._engine.instances(), self._facts(), machine)

    def _available_memory(self, leased: Mapping[str, int]) -> int:
        """Bytes of the budget that nobody holds, given what is leased by checkpoint."""
        if self.machine is None or isinstance(self.machine, Problem):
            return 0
        ledger = self.held_memory(self.machine)
        ledger.leased = leased
        return ledger.budget - ledger.used

    # -- plan ------------------------------------------------------------------------------

    def _pass(self, machine: Machine) -> float | None:
        """One pass. Returns after how many seconds time alone calls for the next."""
        at = self._clock.monotonic()
        next_idle = self._note_idle(at)
        unwritable = self._catch_up(at)
        records = list(self._book.records().values())
        planned = plan(records, self._engine.instances(), self._facts(), machine, at)
        if unwritable is not None:  # an action that cannot be written down must not start
            again = at + WRITE_AGAIN_SECONDS
            planned = tuple(put_off(a, unwritable, again) if a.spec else a for a in planned)
        actions = {action.name: action for action in planned}
        for action in planned:
            if action.acts:
                self._begin(action)
        self._metrics.keep(self._book.entries)
        self._engine.keep(self._book.entries)
        loaded = {i.name: i for i in self._engine.instances()}
        self._reporter.report(loaded, {**actions, **self.running})
        ends = [a.until for a in planned] + [next_idle]
        times = [end - at for end in ends if end is not None]
        if self._book.store.problem is not None:
            times.append(WRITE_AGAIN_SECONDS)
        if records:
            times.append(RECHECK_SECONDS)
        return max(0.0, min(times)) if times else None

    def _catch_up(self, now: float) -> Problem | None:
        """Write down what could not be before; why it still cannot be, if so."""
        if self._book.store.problem is not None:
            if now < self._write_again_at:
                return self._book.store.problem
            self._write_again_at = now + WRITE_AGAIN_SECONDS
            if (problem := self._book.store.try_to_write()) is not None:
                return problem
        try:
            self._journal.catch_up([i.name for i in self._engine.instances()], now)
            for entry in list(self._book.entries.values()):
                if entry.undone_by is not None:
                    self._reporter.undo(entry, entry.undone_by)
        except UnwritableError as error:
            return error.problem
        return None

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
        except UnwritableError:
            pass  # the store has said so, and the next pass looks whether it still is so
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
        attempt = self._journal.begin(action, record)
        structlog.contextvars.bind_contextvars(reconcile=attempt)
        log.info("action started", action=kind, name=name, reason=action.reason)
        entry = self._book.entries.get(name)
        queued = self._clock.monotonic() - entry.queued_at if entry is not None else 0.0
        problem: Problem | None = None
        try:
            await self._carry_out(action, record)
        except LoadError as error:
            problem = error.problem
        except asyncio.CancelledError:
            self._journal.interrupt(attempt)
            raise
        except Exception as error:
            log.exception("action failed unexpectedly", name=name)
            words = f"{type(error).__name__}: {error}"
            problem = Problem(Cause.LOAD_FAILED, words, permanent=False)
        outcome = problem.message if problem is not None else "succeeded"
        self._journal.end(attempt, outcome, [i.name for i in self._engine.instances()])
        log.info("action ended", action=kind, name=name, outcome=outcome)
        self._metrics.action_ended(kind, failed=problem is not None)
        if record is not None:
            self._settle(record, action, problem, queued)
            if problem is None:
                self._journal.settle(record, action)
        if problem is not None and action.kind is Kind.UNLOAD:
            await sleep(self._clock, RETRY_SECONDS)  # it has no back-off of its own

    async def _carry_out(self, action: Action, record: Record | None) -> None:
        if action.spec is None or action.checkpoint is None or action.resolved is None:
            await self._engine.unload(action.name)
            return

        def tell(progress: Progress) -> None:
            self._book.events.emit(
                "phase",
                action.name,
                progress.phase,
                _how_far(progress),
                generation=record.generation if record is not None else None,
                progress=progress,
            )
            if progress.bytes_read is None:  # what is in force may have changed
                self._book.wake.set()

        await self.leases.make_room(action.name if action.unload_first else None)
        await self._engine.load(
            action.name,
            action.spec,
            action.checkpoint,
            action.resolved,
            tell,
            unload_first=action.unload_first,
        )

    def _settle(
        self, record: Record, action: Action, problem: Problem | None, queued: float
    ) -> None:
        """Note the outcome in the record's entry, if it is still the same record."""
        entry, spec = self._book.entries.get(record.name), action.spec
        if spec is None:  # an unload, which says nothing about what is wished for
            return
        if entry is None:
            return
        if problem is None:
            entry.used_at = self._clock.monotonic()
            for instance in self._engine.instances():
                if instance.name == record.name and instance.report is not None:
                    self._metrics.loaded(action.kind.value, instance.report)
        if entry.record.created_at != record.created_at:
            return
        if problem is not None:
            checkpoint = action.checkpoint
            fingerprint = checkpoint.files if checkpoint is not None else None
            self._note_failure(entry, record, spec, fingerprint, problem)
            if entry.record.provisional:
                self._reporter.give_up(entry, problem)
        else:
            if spec.loads_like(record.spec):
                entry.retry = None
            entry.restore = None
            entry.status = replace(
                entry.status,
                queued_seconds=queued,
                loaded_by=action.kind.value,
                loaded_at=self._clock.utc(),
            )

    def _note_failure(
        self,
        entry: Entry,
        record: Record,
        spec: LoadSpec,
        fingerprint: str | None,
        problem: Problem,
    ) -> None:
        """Count a failure of what is wanted, or of the last good spec in its place."""
        wanted = spec.loads_like(record.spec)
        failed = backoff.after(
            entry.retry if wanted else entry.restore,
            record.generation,
            fingerprint,
            problem,
            self._clock.monotonic(),
            self._clock.chance(),
        )
        if wanted:
            entry.retry = failed
        else:
            entry.restore = failed


def _tell_wired(wired: Wired) -> None:
    """Into the log: a wish that is not in force must not go unnoticed."""
    if wired.problem is not None:
        log.warning("memory is not wired", wired_limit=wired.policy, reason=wired.problem)
    elif wired.limit_bytes:
        log.info("memory is wired", wired_limit=wired.policy, bytes=wired.limit_bytes)


def _how_far(progress: Progress) -> str:
    """In words."""
    if progress.bytes_read is None or progress.bytes_total is None:
        return "begins"
    read, total = readable_bytes(progress.bytes_read), readable_bytes(progress.bytes_total)
    return f"{read} of {total} read"
