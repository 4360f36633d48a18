"""The loop: observe, plan, act, report.

Nothing here decides: `desired` says what records there are, `plan` what to do about them, and
`conditions` what to report. The controller calls them with what it observes, carries out what
they say, and writes down the result. No state that gates a change is read before an `await` and
used after it.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from reconciler.core import backoff
from reconciler.core.conditions import derive
from reconciler.core.desired import Absorbed, Join, Memory, View, absorb, decide
from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.plan import Action, Facts, Kind, plan
from reconciler.core.records import (
    HTTP,
    Instance,
    LoadReport,
    LoadRequest,
    LoadSpec,
    Record,
    Status,
)
from reconciler.core.settings import Resolved
from reconciler.core.snapshot import Snapshot
from reconciler.models.catalog import Catalog, Listed
from reconciler.store import Store

log = structlog.get_logger()

RECHECK_SECONDS = 30.0
"""Between looks at the files of a record that cannot be loaded; they may have been mended."""

ENGINE_RETRY_SECONDS = 5.0

PASS_RETRY_SECONDS = 1.0


class Source(Protocol):
    """Where manifests come from."""

    name: str

    def snapshots(self) -> AsyncIterator[Snapshot]:
        """A snapshot now, and one whenever something may have changed; for ever."""


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


@dataclass(frozen=True)
class Answer:
    """A record and its status at the moment at which a question was settled."""

    record: Record
    status: Status
    joined: bool = False


@dataclass(frozen=True)
class SourceView:
    """A source as it was last seen, and which of its declarations are not followed."""

    snapshot: Snapshot
    flagged: Mapping[str, str]


@dataclass
class _Entry:
    """What the controller knows of one record."""

    record: Record
    status: Status
    queued_at: float
    """Monotonic time at which the present wish came up."""
    checkpoint: Checkpoint | Problem | None = None
    checked_model: str | None = None
    checked_at: float = 0.0
    retry: backoff.Retry | None = None
    waiters: list["asyncio.Future[Answer]"] = field(default_factory=list)


class Controller:
    """Owns the records. Used on the event loop only."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        engine: Callable[[Callable[[str, Problem], None]], Engine],
        sources: Sequence[Source],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._engine = engine(self._worker_died)
        self._sources = tuple(sources)
        self._entries: dict[str, _Entry] = {}
        self._running: dict[str, Action] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._views: dict[str, SourceView] = {}
        self._memories: dict[str, Memory] = {s.name: Memory() for s in sources}
        self._machine: Machine | Problem | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()

    # -- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up the stored records and start to reconcile."""
        for name, action in self._store.take_unfinished_attempts(_now()):
            log.warning("an action was cut short by the last stop", name=name, action=action)
        owners = {HTTP, *(s.name for s in self._sources)}
        for record, status in self._store.load():
            if record.owner in owners:
                pending = derive(record, status, None, None, _now())
                self._entries[record.name] = _Entry(record, pending, time.monotonic())
            else:
                log.warning("dropping a record whose source is gone", name=record.name)
                self._store.remove(record.name)
        self._spawn(self._reconcile())
        for source in self._sources:
            self._spawn(self._follow(source))

    async def close(self) -> None:
        """Stop reconciling and end all workers; records stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stopping = Problem(Cause.STOPPING, "the daemon is stopping", permanent=False)
        for entry in self._entries.values():
            _fail_waiters(entry, stopping)
        await self._engine.close()

    # -- what the api asks -----------------------------------------------------------------

    async def load(self, request: LoadRequest) -> Answer:
        """Bring about what `request` asks for and say what is so. Raises `LoadError`."""
        machine = await self._known_machine()
        checkpoint = await asyncio.to_thread(self._catalog.find, request.model)
        decision = decide(self._decision_views(), request, checkpoint, _now())
        if isinstance(decision, Join):
            entry = self._entries[decision.name]
        else:
            self._admit(decision.record, checkpoint, machine)
            entry = self._put(decision.record)
            entry.checkpoint, entry.checked_model = checkpoint, request.model
            entry.checked_at = time.monotonic()
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        entry.waiters.append(waiter)
        self._wake.set()
        answer = await waiter
        return replace(answer, joined=isinstance(decision, Join))

    async def unload(self, name: str) -> None:
        """Remove an http record, and return when its instance is gone. Raises `LoadError`."""
        entry = self._entries.get(name)
        if entry is None:
            message = f"no instance is named '{name}'"
            raise LoadError(Problem(Cause.UNKNOWN_INSTANCE, message, param="instance_id"))
        if entry.record.owner != HTTP:
            message = f"'{name}' is managed by {entry.record.place}; remove it there"
            raise LoadError(Problem(Cause.MANAGED_BY_MANIFEST, message, param="instance_id"))
        self._remove(name, Problem(Cause.REMOVED, f"'{name}' was unloaded", permanent=False))
        await self.until(lambda: name in self._entries or self.is_gone(name))

    def answer(self, name: str) -> Answer | None:
        """A record and its status now."""
        entry = self._entries.get(name)
        return Answer(entry.record, entry.status) if entry is not None else None

    def is_gone(self, name: str) -> bool:
        """Whether no record, no instance and no action has that name."""
        held = any(i.name == name for i in self._engine.instances())
        return not (name in self._entries or name in self._running or held)

    def answers(self) -> tuple[Answer, ...]:
        """All records with their status, by name."""
        return tuple(Answer(e.record, e.status) for _, e in sorted(self._entries.items()))

    def sources(self) -> Mapping[str, SourceView | None]:
        """The sources; None for one that has not been read yet."""
        return {s.name: self._views.get(s.name) for s in self._sources}

    async def models(self) -> tuple[Listed, ...]:
        """The models on disk."""
        return await asyncio.to_thread(self._catalog.list)

    def instances(self) -> tuple[Instance, ...]:
        """What is loaded."""
        return self._engine.instances()

    @property
    def engine_problem(self) -> Problem | None:
        """Why nothing can be loaded at all, if so."""
        return self._machine if isinstance(self._machine, Problem) else None

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at after every change."""
        while not condition():
            await self._changed.wait()

    # -- desired state ---------------------------------------------------------------------

    def _put(self, record: Record) -> _Entry:
        """Write a record, then take it up."""
        entry = self._entries.get(record.name)
        now = time.monotonic()
        if entry is None:
            entry = _Entry(record, derive(record, Status(), None, None, _now()), now)
        self._store.put(record, entry.status)
        if entry.record.generation != record.generation:
            entry.queued_at = now
        entry.record = record
        self._entries[record.name] = entry
        self._wake.set()
        return entry

    def _remove(self, name: str, problem: Problem) -> None:
        """Forget a record; whoever waits for it is told `problem`."""
        self._store.remove(name)
        entry = self._entries.pop(name)
        log.info("record removed", name=name, reason=problem.message)
        _fail_waiters(entry, problem)
        self._announce()
        self._wake.set()

    async def _follow(self, source: Source) -> None:
        """Keep the records of one source as it says."""
        async for snapshot in source.snapshots():
            before = self._views.get(source.name)
            self._absorb(snapshot)
            if before is None or before.snapshot != snapshot:
                _log_flaws(before.snapshot if before is not None else None, snapshot)

    def _absorb(self, snapshot: Snapshot) -> None:
        source, now = snapshot.source, time.monotonic()
        records = {name: entry.record for name, entry in self._entries.items()}
        result: Absorbed = absorb(records, self._memories[source], snapshot, now, _now())
        for record in result.upserts:
            if record.name not in records:
                log.info("record created", name=record.name, place=record.place)
            elif record.generation != records[record.name].generation:
                log.info("record changed", name=record.name, generation=record.generation)
            self._put(record)
        for name in result.removals:
            words = f"{records[name].place} no longer declares it"
            self._remove(name, Problem(Cause.REMOVED, words, permanent=False))
        self._memories[source] = result.memory
        self._views[source] = SourceView(snapshot, result.flagged)
        self._announce()
        if result.check_at is not None:
            asyncio.get_running_loop().call_later(
                max(0.0, result.check_at - now), self._absorb_again, snapshot
            )

    def _absorb_again(self, snapshot: Snapshot) -> None:
        """Look again because time has passed, unless something newer is known."""
        view = self._views[snapshot.source]
        if view.snapshot is snapshot:
            self._absorb(snapshot)

    # -- the loop --------------------------------------------------------------------------

    async def _reconcile(self) -> None:
        machine = await self._learn_machine()
        while True:
            self._wake.clear()
            try:
                await self._look_up_checkpoints()
                wait = self._step(machine)
            except Exception:
                # The loop is what everything else relies on: it goes on.
                log.exception("pass failed; it is tried again")
                wait = PASS_RETRY_SECONDS
            try:
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _learn_machine(self) -> Machine:
        while True:
            try:
                self._machine = await self._engine.machine()
            except LoadError as error:
                if self._machine != error.problem:
                    log.error("no worker can be started", reason=error.problem.message)
                message = f"no worker can be started: {error.problem.message}"
                self._machine = Problem(Cause.ENGINE_UNAVAILABLE, message, permanent=False)
                self._announce()
                await asyncio.sleep(ENGINE_RETRY_SECONDS)
            else:
                machine = self._machine
                log.info("mlx is ready", device=machine.device, budget=machine.memory_budget)
                self._announce()
                return machine

    async def _known_machine(self) -> Machine:
        await self.until(lambda: self._machine is not None)
        if isinstance(self._machine, Machine):
            return self._machine
        assert self._machine is not None  # noqa: S101  awaited above
        raise LoadError(self._machine)

    async def _look_up_checkpoints(self) -> None:
        """Read the files of the records that need it."""
        loaded = {i.name: i for i in self._engine.instances()}
        for entry in list(self._entries.values()):
            record, now = entry.record, time.monotonic()
            instance = loaded.get(record.name)
            agrees = instance is not None and instance.spec == record.spec
            known = entry.checked_model == record.spec.model
            if known and (agrees or now - entry.checked_at < RECHECK_SECONDS):
                continue
            try:
                found: Checkpoint | Problem = await asyncio.to_thread(
                    self._catalog.find, record.spec.model
                )
            except LoadError as error:
                found = error.problem
            entry.checkpoint, entry.checked_model = found, record.spec.model
            entry.checked_at = now

    def _step(self, machine: Machine) -> float | None:
        """One pass. Returns after how many seconds time alone calls for the next."""
        now = time.monotonic()
        records = [entry.record for entry in self._entries.values()]
        actions = {
            a.name: a for a in plan(records, self._engine.instances(), self._facts(), machine, now)
        }
        for action in actions.values():
            if action.acts:
                self._begin(action)
        self._report(actions)
        times = [a.until - now for a in actions.values() if a.until is not None]
        if any(a.kind is Kind.HOLD for a in actions.values()):
            times.append(RECHECK_SECONDS)
        return max(0.0, min(times)) if times else None

    def _facts(self) -> Facts:
        return Facts(
            checkpoints={
                name: e.checkpoint
                for name, e in self._entries.items()
                if e.checkpoint is not None and e.checked_model == e.record.spec.model
            },
            retries={n: e.retry for n, e in self._entries.items() if e.retry is not None},
            running=self._running,
        )

    def _begin(self, action: Action) -> None:
        entry = self._entries.get(action.name)
        self._running[action.name] = action
        self._spawn(self._act(action, entry.record if entry is not None else None))

    async def _act(self, action: Action, record: Record | None) -> None:
        """Carry out one action and write down how it went."""
        generation = record.generation if record is not None else 0
        attempt = self._store.begin_attempt(
            action.name, generation, action.kind.value, action.reason, _now()
        )
        log.info("action started", action=action.kind.value, name=action.name, reason=action.reason)
        queued = self._queued_seconds(action.name)
        report: LoadReport | None = None
        problem: Problem | None = None
        try:
            if record is None or action.checkpoint is None or action.resolved is None:
                await self._engine.unload(action.name)
            else:
                report = await self._engine.load(
                    action.name,
                    record.spec,
                    action.checkpoint,
                    action.resolved,
                    unload_first=action.unload_first,
                )
        except LoadError as error:
            problem = error.problem
        except asyncio.CancelledError:
            self._store.end_attempt(attempt, "interrupted by a stop", _now())
            raise
        except Exception as error:
            log.exception("action failed unexpectedly", name=action.name)
            await asyncio.sleep(PASS_RETRY_SECONDS)
            words = f"{type(error).__name__}: {error}"
            problem = Problem(Cause.LOAD_FAILED, words, permanent=False)
        del self._running[action.name]
        outcome = problem.message if problem is not None else "succeeded"
        self._store.end_attempt(attempt, outcome, _now())
        log.info("action ended", action=action.kind.value, name=action.name, outcome=outcome)
        if record is not None:
            self._settle(record, action, report, problem, queued)
        self._announce()
        self._wake.set()

    def _settle(
        self,
        record: Record,
        action: Action,
        report: LoadReport | None,
        problem: Problem | None,
        queued: float,
    ) -> None:
        """Note the outcome in the record's entry, if it is still the same record."""
        entry = self._entries.get(record.name)
        if entry is None or entry.record.created_at != record.created_at:
            return
        if problem is not None:
            revision = action.checkpoint.revision if action.checkpoint is not None else None
            self._failed(entry, record.generation, revision, problem)
            return
        if report is not None and action.resolved is not None and action.checkpoint is not None:
            entry.retry = None
            entry.status = replace(
                entry.status,
                load_time_seconds=report.load_time_seconds,
                queued_seconds=queued,
                load_phases=report.phases,
                memory_bytes=report.memory_bytes,
                warnings=action.resolved.warnings,
                checkpoint=action.checkpoint.path,
            )
            self._put(replace(entry.record, provisional=False, last_good=record.spec))

    def _failed(
        self, entry: _Entry, generation: int, revision: str | None, problem: Problem
    ) -> None:
        entry.retry = backoff.after(
            entry.retry,
            generation,
            revision,
            problem,
            time.monotonic(),
            random.random(),  # noqa: S311
        )

    def _worker_died(self, name: str, problem: Problem) -> None:
        entry = self._entries.get(name)
        if entry is not None:
            entry.queued_at = time.monotonic()
            entry.status = replace(entry.status, restarts=entry.status.restarts + 1)
            self._failed(entry, entry.record.generation, None, problem)
        self._wake.set()

    # -- status ----------------------------------------------------------------------------

    def _report(self, actions: Mapping[str, Action]) -> None:
        """Derive every status anew, and answer whoever waited for one."""
        loaded = {i.name: i for i in self._engine.instances()}
        for name, entry in list(self._entries.items()):
            action = self._running.get(name, actions.get(name))
            before = entry.status
            entry.status = derive(entry.record, before, loaded.get(name), action, _now())
            if entry.status != before:
                self._store.put(entry.record, entry.status)
                _log_transition(name, before, entry.status)
                self._announce()
            if entry.status.ready:
                for waiter in entry.waiters:
                    if not waiter.done():
                        waiter.set_result(Answer(entry.record, entry.status))
                entry.waiters.clear()
            elif action is not None and action.problem is not None:
                self._give_up(entry, action.problem)

    def _give_up(self, entry: _Entry, problem: Problem) -> None:
        """An http wish that failed is undone; a manifest's goes on being tried."""
        record = entry.record
        if record.provisional:
            self._remove(record.name, problem)
            return
        _fail_waiters(entry, problem)
        if record.owner == HTTP and record.last_good not in (None, record.spec):
            log.info("update undone", name=record.name, reason=problem.message)
            assert record.last_good is not None  # noqa: S101  checked above
            self._put(record.with_spec(record.last_good))

    def _admit(self, record: Record, checkpoint: Checkpoint, machine: Machine) -> None:
        """Refuse at once what the plan would not load. Raises `LoadError`."""
        others = [e.record for e in self._entries.values() if e.record.name != record.name]
        facts = self._facts()
        facts = replace(facts, checkpoints={**facts.checkpoints, record.name: checkpoint})
        actions = plan(
            [*others, record], self._engine.instances(), facts, machine, time.monotonic()
        )
        for action in actions:
            if action.name == record.name and action.problem is not None:
                raise LoadError(action.problem)

    def _decision_views(self) -> list[View]:
        loaded = {i.name: i.config for i in self._engine.instances()}
        return [
            View(
                e.record,
                e.checkpoint if isinstance(e.checkpoint, Checkpoint) else None,
                loaded.get(name),
                e.status.ready,
            )
            for name, e in self._entries.items()
        ]

    def _queued_seconds(self, name: str) -> float:
        entry = self._entries.get(name)
        return time.monotonic() - entry.queued_at if entry is not None else 0.0

    def _announce(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _now() -> datetime:
    return datetime.now(UTC)


def _fail_waiters(entry: _Entry, problem: Problem) -> None:
    for waiter in entry.waiters:
        if not waiter.done():
            waiter.set_exception(LoadError(problem))
    entry.waiters.clear()


def _log_transition(name: str, before: Status, after: Status) -> None:
    old, new = before.condition("Ready"), after.condition("Ready")
    if new is not None and (old is None or (old.status, old.reason) != (new.status, new.reason)):
        log.info("ready changed", name=name, status=new.status, reason=new.reason, why=new.message)


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
