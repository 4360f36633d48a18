"""Actions under way: each a task that drives the engine, and tells the next pass how it ended.

What an action changes is taken up by a pass, not by its task: `collect` hands over what has ended
since the last one. A load that is not wanted any more is cancelled, and the engine ends its worker.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from reconciler.controller.clock import Clock, sleep
from reconciler.controller.events import Events
from reconciler.controller.leases import MemoryLeases
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Machine, Shapes
from reconciler.core.memory import readable_bytes
from reconciler.core.plan import Action, Kind
from reconciler.core.protocol import Activity, Lease, Reply, RequestContext, Usage
from reconciler.core.records import Instance, LoadSpec, Progress, Record
from reconciler.core.settings import Resolved
from reconciler.engine.log import Log

log = structlog.get_logger()

RETRY_SECONDS = 1.0
"""After an unload that failed: it has no back-off of its own."""

INTERRUPTED = "interrupted by a stop"
"""Outcome of an attempt that a stop of the daemon ended; nobody is to blame."""

CANCELLED = "cancelled: what it was planned for has changed"
"""Outcome of a load whose record was removed or suspended, or whose weights have gone."""


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
    ) -> Instance: ...
    async def unload(self, name: str) -> None: ...
    def request(
        self, name: str, path: str, body: bytes, lease: Lease, context: RequestContext
    ) -> AbstractAsyncContextManager[Reply]: ...
    async def recall(self, leases: Mapping[str, Lease]) -> Mapping[str, int]: ...
    async def tokens(self) -> Mapping[str, Usage]: ...
    async def activity(self) -> Mapping[str, Activity]: ...
    def retain_only(self, names: Collection[str]) -> None: ...
    def log(self, name: str) -> Log | None: ...
    async def drain(self, at_once: asyncio.Event) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True)
class Ended:
    """How an action ended."""

    action: Action
    record: Record | None
    """As it was when the action began; None: no record wanted the instance."""
    attempt: int | None
    queued: float
    """Seconds from the moment at which the spec was asked for to the start of the action."""
    instance: Instance | None = None
    """What was loaded."""
    problem: Problem | None = None
    cancelled: bool = False

    @property
    def outcome(self) -> str:
        """For the log of attempts."""
        if self.cancelled:
            return CANCELLED
        return self.problem.message if self.problem is not None else "succeeded"


@dataclass(eq=False)
class _Running:
    action: Action
    record: Record | None
    attempt: int | None
    queued: float
    task: asyncio.Task[None] | None = None
    cancelled: bool = field(default=False)


class Actions:
    """At most one for each name. Used on the event loop only."""

    def __init__(
        self,
        engine: Engine,
        leases: MemoryLeases,
        clock: Clock,
        events: Events,
        wake: Callable[[], None],
        is_right: Callable[[Action], bool],
    ) -> None:
        """`wake` is called when there is something for a pass to look at; `is_right` is asked
        before a load begins, which may have had to wait for memory.
        """
        self._engine = engine
        self._is_right = is_right
        self._leases = leases
        self._clock = clock
        self._events = events
        self._wake = wake
        self._running: dict[str, _Running] = {}
        self._ended: list[Ended] = []

    def running(self) -> dict[str, Action]:
        """The actions under way, by name; those whose end no pass has taken up are among them."""
        return {name: one.action for name, one in self._running.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._running

    def begin(
        self, action: Action, record: Record | None, attempt: int | None, queued: float
    ) -> None:
        """Carry out an action from here on."""
        running = _Running(action, record, attempt, queued)
        self._running[action.name] = running
        running.task = asyncio.create_task(self._run(running))

    def cancel(self, name: str) -> None:
        """End a load that is not wanted any more; a pass hears of it as of any end."""
        running = self._running[name]
        if running.task is not None and not running.cancelled and not running.task.done():
            running.cancelled = True
            running.task.cancel()

    def collect(self) -> list[Ended]:
        """What has ended since the last time."""
        ended, self._ended = self._ended, []
        for end in ended:
            del self._running[end.action.name]
        return ended

    async def close(self) -> list[Ended]:
        """Interrupt all that is under way; how everything ended that no pass has taken up."""
        tasks = [one.task for one in self._running.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return self.collect()

    async def _run(self, running: _Running) -> None:
        action, record = running.action, running.record
        kind, name = action.kind.value, action.name
        structlog.contextvars.bind_contextvars(reconcile=running.attempt)
        log.info("action started", action=kind, name=name, reason=action.message)
        instance: Instance | None = None
        problem: Problem | None = None
        try:
            await self._make_room(running)
            if not running.cancelled:
                instance = await self._carry_out(action, record)
        except LoadError as error:
            problem = error.problem
        except asyncio.CancelledError:
            if not running.cancelled:
                problem = Problem(Reason.STOPPING, INTERRUPTED, permanent=False)
        except Exception as error:
            log.exception("action failed unexpectedly", name=name)
            words = f"{type(error).__name__}: {error}"
            problem = Problem(Reason.LOAD_FAILED, words, permanent=False)
        end = Ended(
            action, record, running.attempt, running.queued, instance, problem, running.cancelled
        )
        log.info("action ended", action=kind, name=name, outcome=end.outcome)
        try:
            stopped = problem is None or problem.reason is Reason.STOPPING
            if action.kind is Kind.UNLOAD and not stopped:
                await sleep(self._clock, RETRY_SECONDS)
        finally:
            self._ended.append(end)
            self._wake()

    async def _make_room(self, running: _Running) -> None:
        """Wait for the memory that a load was admitted with. Raises `LoadError`."""
        action = running.action
        if action.spec is not None:
            await self._leases.make_room(action.name if action.unload_first else None)
            running.cancelled = running.cancelled or not self._is_right(action)

    async def _carry_out(self, action: Action, record: Record | None) -> Instance | None:
        """Returns what was loaded, if the action loads. Raises `LoadError`."""
        if action.spec is None or action.checkpoint is None or action.resolved is None:
            await self._engine.unload(action.name)
            return None

        def emit_phase(progress: Progress) -> None:
            self._events.emit(
                "phase",
                action.name,
                progress.phase,
                _how_far(progress),
                generation=record.generation if record is not None else None,
                progress=progress,
            )
            if progress.bytes_read is None and action.unload_first:
                self._wake()  # what was in force has gone

        return await self._engine.load(
            action.name,
            action.spec,
            action.checkpoint,
            action.resolved,
            emit_phase,
            unload_first=action.unload_first,
        )


def _how_far(progress: Progress) -> str:
    """In words."""
    if progress.bytes_read is None or progress.bytes_total is None:
        return "begins"
    read, total = readable_bytes(progress.bytes_read), readable_bytes(progress.bytes_total)
    return f"{read} of {total} read"
