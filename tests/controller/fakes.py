"""A controller with fakes that the test steps; the store and model files are real."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reconciler.controller import Controller, RecordView
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Machine, Shapes
from reconciler.core.manifest import Diagnostic
from reconciler.core.protocol import Activity, Lease, Reply, RequestContext, Usage
from reconciler.core.records import (
    Instance,
    LoadReport,
    LoadRequest,
    LoadSpec,
    Phase,
    Progress,
    RequestedSettings,
)
from reconciler.core.settings import Resolved
from reconciler.core.snapshot import Commit, Declared, ManifestFile, Snapshot
from reconciler.models.catalog import Catalog
from reconciler.models.places import Directory, HubCache
from reconciler.store import Store

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class FakeTimer:
    """A scheduled call, which can be cancelled."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """A clock that only the test advances. Its random value is 0."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._serial = itertools.count()
        self._looks = itertools.count()

    def monotonic(self) -> float:
        return self.seconds

    def utc(self) -> datetime:
        """The time, slightly later at each call, like a real clock."""
        return EPOCH + timedelta(seconds=self.seconds, microseconds=next(self._looks))

    def call_later(self, delay: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self.seconds + delay, next(self._serial), timer))
        return timer

    def chance(self) -> float:
        return 0.0

    def step(self) -> None:
        """Advance to the first scheduled call and run only that."""
        self.seconds, _, timer = heapq.heappop(self._timers)
        if timer.callback is not None:
            timer.callback()

    def advance(self, seconds: float) -> None:
        """Advance the time; each scheduled call runs at its time."""
        end = self.seconds + seconds
        while self._timers and self._timers[0][0] <= end:
            self.seconds, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
        self.seconds = end


class FakeEngine:
    """An engine that loads nothing; the test ends each load."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.loaded: dict[str, Instance] = {}
        self.loads: asyncio.Queue[tuple[LoadSpec, asyncio.Future[None]]] = asyncio.Queue()
        self.unloads: list[str] = []
        self.removed_prompts: list[Path] = []
        self.live: dict[str, int] = {}
        self.requests: list[tuple[str, str, bytes, int]] = []
        """Requests with their leased bytes."""
        self.in_use: dict[str, int] = {}
        """Bytes that active requests use beyond the reservation, by instance."""
        self.serial = itertools.count(1)
        self.draining: asyncio.Future[None] | None = None
        """If set, the next unload waits for it."""
        self.startable = True
        self.on_death: Callable[[Instance, Problem], None] = lambda _instance, _problem: None

    async def machine(self) -> Machine:
        if not self.startable:
            raise LoadError(Problem(Reason.WORKER_DIED, "no module named mlx", permanent=False))
        return Machine("cpu", "fake", self.budget, "0")

    async def shapes(self, checkpoint: Checkpoint) -> Shapes:
        return checkpoint.footprint

    async def prompts_bytes(self) -> int:
        return 0

    async def remove_prompts(self, folder: Path) -> None:
        self.removed_prompts.append(folder)

    def retain_only(self, names: Collection[str]) -> None:
        """Do nothing: no tokens are counted."""

    def outgoing(self) -> tuple[Instance, ...]:
        return ()

    def live_memory(self) -> dict[str, int]:
        return self.live

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
        if unload_first:
            self.loaded.pop(name, None)
        progress(Progress("weights", 0, checkpoint.weights_bytes))
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.loads.put((spec, end))
        await end
        weights, session = checkpoint.weights_bytes, resolved.need.own
        loaded = self.loaded[name] = Instance(
            name,
            spec,
            checkpoint.path,
            resolved.config,
            weights,
            session,
            worker_pid=1,
            revision=checkpoint.revision,
            report=LoadReport(0.5, {"weights": Phase(0.0, 0.5)}, weights, resolved.warnings),
            session=str(next(self.serial)),
        )
        return loaded

    async def unload(self, name: str) -> None:
        self.unloads.append(name)
        if self.draining is not None:
            await self.draining
        del self.loaded[name]

    @asynccontextmanager
    async def request(
        self, name: str, path: str, body: bytes, lease: Lease, _context: RequestContext
    ) -> AsyncIterator[Reply]:
        assert name in self.loaded
        self.requests.append((name, path, body, lease.allowed))
        yield Reply(200, "application/json", _nothing())

    async def recall(self, leases: Mapping[str, Lease]) -> dict[str, int]:
        names = {i.session: i.name for i in self.loaded.values()}
        return {session: self.in_use.get(names[session], 0) for session in leases}

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

    async def let_load(self, problem: Problem | None = None) -> LoadSpec:
        """End the next load, successfully or with `problem`, and return its spec."""
        spec, end = await self.loads.get()
        if problem is None:
            end.set_result(None)
        else:
            end.set_exception(LoadError(problem))
        return spec


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield


class FakeSource:
    """A source that yields the snapshots of the test."""

    name = "directory:/manifests"

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Snapshot] = asyncio.Queue()
        self.accepted: list[str] = []
        self.now: Snapshot | None = None
        """Snapshot that a requested scan returns."""

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        while True:
            self.now = await self.queue.get()
            yield self.now

    async def sync(self) -> None:
        """Push the snapshot `now`; other scans happen when the test pushes one."""
        if self.now is not None:
            self.queue.put_nowait(self.now)

    def accept(self, commit: str) -> None:
        self.accepted.append(commit)

    def declare(self, *specs: tuple[str, LoadSpec], flaw: Diagnostic | None = None) -> None:
        files = [ManifestFile(f"{n}.yaml", (Declared(n, spec, 1),)) for n, spec in specs]
        if flaw is not None:
            files.append(ManifestFile("bad.yaml", flaws=(flaw,)))
        self.queue.put_nowait(Snapshot(self.name, tuple(files)))

    def push(
        self, commit: str, *names: str, attempted: str | None = None, problem: str | None = None
    ) -> None:
        """Push a commit that declares these records; `problem` is the error of a newer one."""
        files = tuple(ManifestFile(f"{n}.yaml", (Declared(n, spec(), 1),)) for n in names)
        self.queue.put_nowait(
            Snapshot(self.name, files, commit=Commit(commit, attempted or commit, problem))
        )


async def spin(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds, if there is no event to await."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


class Bench:
    """A controller with its fakes."""

    def __init__(self, state: Path, models: Path, budget: int, *, jit: bool = False) -> None:
        self._state, self._models, self._budget = state, models, budget
        self.clock = FakeClock()
        self.jit = jit
        self.boots = 1
        self._make()

    def _make(self) -> None:
        self.store = Store(self._state)
        self.engine = FakeEngine(self._budget)
        self.source = FakeSource()

        def make(on_death: Callable[[Instance, Problem], None]) -> FakeEngine:
            self.engine.on_death = on_death
            return self.engine

        catalog = Catalog([Directory(self._models), HubCache(self._state / "hub")])
        self.controller = Controller(
            self.store,
            catalog,
            make,
            [self.source],
            self.clock,
            hub_cache=self._state / "hub",
            jit=self.jit,
            boot_id=f"boot-{self.boots}",
        )

    async def close(self) -> None:
        await self.controller.close()
        self.store.close()

    async def restart(self) -> None:
        """Stop, and start again with the same state and nothing loaded."""
        await self.close()
        self._make()
        await self.controller.start()

    async def crash(self, *, reboot: bool = False) -> None:
        """Crash the daemon, or the machine if `reboot`, and start again."""
        self.store.close()  # later writes of the controller are lost
        await self.controller.close()
        self.boots += reboot
        self._make()
        await self.controller.start()

    def let_write(self, can: bool) -> None:
        """Set whether the state can be written."""
        self.store._db.execute(f"PRAGMA query_only = {not can}")

    async def asked(self, name: str, count: int = 1) -> None:
        """Wait until `count` requests wait for a record."""
        entries = self.controller._registry.states
        await spin(lambda: name in entries and len(entries[name]._waiters) >= count)

    async def ready(self, name: str, generation: int = 1) -> RecordView:
        def is_ready() -> bool:
            answer = self.controller.answer(name)
            return (
                answer is not None
                and answer.status.ready
                and answer.status.observed_generation >= generation
            )

        await self.controller.until(is_ready)
        answer = self.controller.answer(name)
        assert answer is not None
        return answer

    async def reason(self, name: str, reason: str) -> str:
        """Wait for a reason of the Ready condition, and return its message."""

        def found() -> str | None:
            answer = self.controller.answer(name)
            ready = answer.status.condition("Ready") if answer is not None else None
            return ready.message if ready is not None and ready.reason == reason else None

        await self.controller.until(lambda: found() is not None)
        return found() or ""


def spec(model: str = "tiny/llama", **config: int) -> LoadSpec:
    return LoadSpec(model, RequestedSettings(**config))  # type: ignore[arg-type]


def request(model: str = "tiny/llama", **config: int) -> LoadRequest:
    return LoadRequest(model, RequestedSettings(**config))  # type: ignore[arg-type]


async def load(bench: Bench, wanted: LoadRequest, problem: Problem | None = None) -> RecordView:
    """Load by HTTP, and end the engine's load."""
    asking = asyncio.create_task(bench.controller.load(wanted))
    await bench.engine.let_load(problem)
    return await asking
