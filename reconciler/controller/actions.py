"""Runs actions, each in a task that drives the engine.

A task does not change records: the next pass takes its outcome with `collect`. A load that is no
longer wanted is cancelled, and the engine ends its worker.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
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
"""Delay after a failed unload, which has no back-off of its own."""

INTERRUPTED = "interrupted by a stop of the daemon"
"""Outcome of an attempt that was interrupted by a stop of the daemon; no model is blamed."""

CANCELLED = "cancelled: its record or the weights it shares have changed"
"""Outcome of a load whose record was removed or suspended, or whose shared weights are gone."""


class Engine(Protocol):
    """Loads models and serves requests."""

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
    async def prompts_bytes(self) -> int: ...
    async def remove_prompts(self, folder: Path) -> None: ...
    def retain_only(self, names: Collection[str]) -> None: ...
    def log(self, name: str) -> Log | None: ...
    async def drain(self, at_once: asyncio.Event) -> None: ...
    async def close(self) -> None: ...


@dataclass(frozen=True)
class Ended:
    """Outcome of an action."""

    action: Action
    record: Record | None
    """The record when the action began; None if no record wanted the instance."""
    attempt: int | None
    queued: float
    """Seconds from the request of the spec to the start of the action."""
    instance: Instance | None = None
    """The loaded instance, if any."""
    problem: Problem | None = None
    cancelled: bool = False

    @property
    def outcome(self) -> str:
        """Outcome as text, for the log of attempts."""
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
    """Running actions, at most one per name. Used on the event loop only."""

    def __init__(
        self,
        engine: Engine,
        leases: MemoryLeases,
        clock: Clock,
        events: Events,
        wake: Callable[[], None],
        is_right: Callable[[Action], bool],
    ) -> None:
        """`wake` is called when a pass has something to process; `is_right` is called before a load
        begins, which may have waited for memory.
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
        """Running actions by name, including those that ended since the last pass."""
        return {name: one.action for name, one in self._running.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._running

    def begin(
        self, action: Action, record: Record | None, attempt: int | None, queued: float
    ) -> None:
        """Start an action."""
        running = _Running(action, record, attempt, queued)
        self._running[action.name] = running
        running.task = asyncio.create_task(self._run(running))

    def cancel(self, name: str) -> None:
        """Cancel a load that is no longer wanted; the next pass collects its end."""
        running = self._running[name]
        if running.task is not None and not running.cancelled and not running.task.done():
            running.cancelled = True
            running.task.cancel()

    def collect(self) -> list[Ended]:
        """Return the actions that ended since the last call."""
        ended, self._ended = self._ended, []
        for end in ended:
            del self._running[end.action.name]
        return ended

    async def close(self) -> list[Ended]:
        """Interrupt all running actions; returns the ends not yet collected."""
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
        """Wait for the memory with which a load was admitted. Raises `LoadError`."""
        action = running.action
        if action.spec is not None:
            await self._leases.make_room(action.name if action.unload_first else None)
            running.cancelled = running.cancelled or not self._is_right(action)

    async def _carry_out(self, action: Action, record: Record | None) -> Instance | None:
        """Carry out an action; returns the loaded instance, if any. Raises `LoadError`."""
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
                self._wake()  # the previous instance is gone

        return await self._engine.load(
            action.name,
            action.spec,
            action.checkpoint,
            action.resolved,
            emit_phase,
            unload_first=action.unload_first,
        )


def _how_far(progress: Progress) -> str:
    """Format the progress as text."""
    if progress.bytes_read is None or progress.bytes_total is None:
        return "started"
    read, total = readable_bytes(progress.bytes_read), readable_bytes(progress.bytes_total)
    return f"{read} of {total} read"
