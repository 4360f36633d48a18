"""A fake engine and catalogue with faults that the test injects; they check their calls."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Machine, Shapes
from reconciler.core.memory import Ledger
from reconciler.core.protocol import Activity, Lease, Reply, RequestContext, Usage
from reconciler.core.records import (
    Instance,
    LoadReport,
    LoadSpec,
    ModelRef,
    Phase,
    Progress,
    Record,
)
from reconciler.core.settings import Resolved
from tests.controller.leasing import FakeRequest, FakeSessions

if TYPE_CHECKING:
    from tests.controller.machine import World

BUDGET = 100
WEIGHTS = {"p/small": 10, "p/other": 30, "p/big": 60, "p/huge": 200}
"""Models on disk, by name; p/huge never fits, and p/absent may appear later."""

DIED = Problem(Reason.WORKER_DIED, "it died", permanent=False)


class DeadMountError(Exception):
    """Raised for a lookup on a dead mount, which hangs until the mount is back."""


class Inline(ThreadPoolExecutor):
    """An executor that runs jobs at once, between steps; hanging ones run at `resume`."""

    def __init__(self) -> None:
        super().__init__(max_workers=1)
        self._hanging: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self._run(future, partial(fn, *args, **kwargs))
        return future

    def resume(self) -> None:
        """Run all hanging jobs."""
        hanging, self._hanging = self._hanging, []
        for future, job in hanging:
            if not future.cancelled():
                self._run(future, job)

    def _run(self, future: "Future[Any]", job: Callable[[], Any]) -> None:
        try:
            result = job()
        except DeadMountError:
            self._hanging.append((future, job))
        except Exception as error:  # noqa: BLE001  the caller handles it
            future.set_exception(error)
        else:
            future.set_result(result)


class FakeCatalog:
    """Models by name."""

    def __init__(self) -> None:
        self.weights = dict(WEIGHTS)
        self.version = 1
        self.sick: dict[str, type[Exception]] = {}
        """Exception of a lookup by model; a shared lookup of several models raises it too.

        A shared lookup does not wait for a dead mount, as in the real catalogue. Each lookup raises
        a new exception: raising one again would add the frames of all earlier times.
        """

    def find(self, ref: ModelRef) -> Checkpoint:
        if ref.model in self.sick:
            raise self.sick[ref.model]
        if ref.model not in self.weights:
            raise LoadError(Problem(Reason.MODEL_NOT_FOUND, f"no {ref.model}"))
        weights = self.weights[ref.model]
        return Checkpoint(
            f"/{ref.model}", f"v{self.version}", "llama", weights, 50, kv_bytes_per_token=1
        )

    def find_all(self, refs: list[ModelRef]) -> dict[ModelRef, Checkpoint | Problem]:
        found: dict[ModelRef, Checkpoint | Problem] = {}
        for ref in refs:
            try:
                found[ref] = self.find(ref)
            except DeadMountError:
                words = f"{ref.model} does not answer"
                found[ref] = Problem(Reason.INVALID_CHECKPOINT, words, permanent=False)
            except LoadError as error:
                found[ref] = error.problem
        return found


@dataclass
class Pending:
    """An unfinished action of the engine."""

    name: str
    end: "asyncio.Future[None]"
    record: Record | None = None
    spec: LoadSpec | None = None
    checkpoint: Checkpoint | None = None
    resolved: Resolved | None = None
    reads: bool = False


class FaultyEngine:
    """An engine whose actions the test ends; it asserts that each action is allowed."""

    def __init__(self, world: "World", on_death: Callable[[Instance, Problem], None]) -> None:
        self.world = world
        self.on_death = on_death
        self.loaded: dict[str, Instance] = {}
        self.loaded_at: dict[str, float] = {}
        self.pending: list[Pending] = []
        self.sessions = FakeSessions()
        self.serial = itertools.count(1)

    async def machine(self) -> Machine:
        return Machine("cpu", "fake", BUDGET, "0")

    async def shapes(self, checkpoint: Checkpoint) -> Shapes:
        return checkpoint.footprint

    async def prompts_bytes(self) -> int:
        return 0

    async def remove_prompts(self, folder: Path) -> None:
        """Do nothing: no prompts are kept."""

    def retain_only(self, names: Collection[str]) -> None:
        """Do nothing: no tokens are counted."""

    def outgoing(self) -> tuple[Instance, ...]:
        return ()

    def live_memory(self) -> dict[str, int]:
        return {}

    def instances(self) -> tuple[Instance, ...]:
        return tuple(self.loaded.values())

    async def load(
        self,
        name: str,
        spec: LoadSpec,
        checkpoint: Checkpoint,
        resolved: Resolved,
        progress: Callable[[Progress], None],
        *,
        unload_first: bool = False,
    ) -> Instance:
        record = self.world.load_begins(name, spec, checkpoint)
        held = any(i.checkpoint == checkpoint.path for i in self.loaded.values()) or any(
            # The replacement of their only instance keeps the weights.
            p.checkpoint is not None and p.checkpoint.path == checkpoint.path and not p.reads
            for p in self.pending
        )
        if unload_first:  # weights that another action uses stay loaded
            del self.loaded[name]
        progress(Progress("worker"))
        progress(Progress("weights", 0, checkpoint.weights_bytes))
        await self._wait(
            Pending(
                name,
                _future(),
                record,
                spec,
                checkpoint,
                resolved,
                reads=not held,
            )
        )
        loaded = self.loaded[name] = Instance(
            name,
            spec,
            checkpoint.path,
            resolved.config,
            checkpoint.weights_bytes,
            resolved.need.own,
            worker_pid=1,
            revision=checkpoint.revision,
            report=LoadReport(0.5, {"weights": Phase(0.0, 0.5)}, 1, resolved.warnings),
            session=str(next(self.serial)),
        )
        self.loaded_at[name] = self.world.clock.seconds
        self.world.failures.pop(name, None)
        return loaded

    async def unload(self, name: str) -> None:
        record = self.world.record(name)
        unwanted = record is None or record.spec.suspend
        if record is not None and record.spec.idle_ttl_seconds is not None:
            idle = self.world.clock.seconds - self.loaded_at.get(name, 0.0)
            unwanted = unwanted or idle >= record.spec.idle_ttl_seconds
        self.world.expect(unwanted, f"{name} is unloaded though it is wanted")
        await self._wait(Pending(name, _future()))
        self.loaded.pop(name, None)

    @asynccontextmanager
    async def request(
        self, name: str, _path: str, body: bytes, lease: Lease, _context: RequestContext
    ) -> AsyncIterator[Reply]:
        request = FakeRequest(name, self.loaded[name].session, lease, int(body))

        async def chunks() -> AsyncIterator[bytes]:
            await self.sessions.answer(request)
            yield b""

        yield Reply(200, "application/json", chunks())

    async def recall(self, leases: Mapping[str, Lease]) -> dict[str, int]:
        return await self.sessions.recall(leases)

    async def tokens(self) -> dict[str, Usage]:
        return {}

    async def activity(self) -> dict[str, Activity]:
        return {}

    def log(self, _name: str) -> None:
        return None

    async def drain(self, at_once: asyncio.Event) -> None:
        """Return at once: no request outlives its test."""

    async def close(self) -> None:
        self.loaded.clear()

    async def _wait(self, pending: Pending) -> None:
        names = [p.name for p in self.pending]
        self.world.expect(pending.name not in names, "two actions on one record")
        self.pending.append(pending)
        reading = sum(p.reads for p in self.pending)
        self.world.expect(reading <= 1, "two checkpoints are read at once")
        self.world.expect(self.used() <= BUDGET, "more memory than there is")
        self.world.expect(self.used() + self.leased() <= BUDGET, "memory is promised twice")
        try:
            await pending.end
        finally:
            self.pending.remove(pending)

    def leased(self) -> int:
        """Maximum of bytes that requests can use beyond the reservations."""
        there = [self.sessions.of(instance.session) for instance in self.loaded.values()]
        return sum(session.possible for session in there)

    def used(self) -> int:
        """Reserved bytes, including those of actions in progress."""
        ledger = Ledger.of(BUDGET, self.loaded.values())
        for p in self.pending:
            if p.checkpoint is not None and p.resolved is not None:
                path, weights = p.checkpoint.path, p.checkpoint.weights_bytes
                ledger.hold(f"{p.name}+", path, weights, p.resolved.need.own)
        return ledger.used

    def kill(self, name: str) -> None:
        """Kill the worker of an instance."""
        instance = self.loaded.pop(name)
        self.on_death(instance, DIED)


def _future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()
