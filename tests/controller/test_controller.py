"""The controller over a fake engine that a test steps by hand; store and files are real."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.controller import Answer, Controller
from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.manifest import Flaw, Position
from reconciler.core.records import (
    Asked,
    Instance,
    LoadReport,
    LoadRequest,
    LoadSpec,
    Phase,
)
from reconciler.core.settings import Resolved
from reconciler.core.snapshot import Declared, ManifestFile, Snapshot
from reconciler.models.catalog import Catalog
from reconciler.models.checkpoint import read_facts
from reconciler.models.places import Directory
from reconciler.store import Store

BROKEN = Problem(Cause.LOAD_FAILED, "it broke", permanent=True)


class FakeEngine:
    """Loads nothing; each load waits until the test says how it ends."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.loaded: dict[str, Instance] = {}
        self.loads: asyncio.Queue[tuple[LoadSpec, asyncio.Future[None]]] = asyncio.Queue()
        self.unloads: list[str] = []
        self.startable = True
        self.on_death: Callable[[str, Problem], None] = lambda _name, _problem: None

    async def machine(self) -> Machine:
        if not self.startable:
            raise LoadError(Problem(Cause.WORKER_DIED, "no module named mlx", permanent=False))
        return Machine("cpu", "fake", self.budget, "0")

    def instances(self) -> tuple[Instance, ...]:
        return tuple(self.loaded.values())

    async def load(
        self,
        name: str,
        spec: LoadSpec,
        checkpoint: Checkpoint,
        resolved: Resolved,
        *,
        unload_first: bool = False,
    ) -> LoadReport:
        if unload_first:
            self.loaded.pop(name, None)
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self.loads.put((spec, end))
        await end
        weights, session = checkpoint.weights_bytes, resolved.session_bytes
        self.loaded[name] = Instance(
            name, spec, checkpoint.path, resolved.config, weights, session, worker_pid=1
        )
        return LoadReport(resolved.config, 0.5, {"weights": Phase(0.0, 0.5)}, weights)

    async def unload(self, name: str) -> None:
        self.unloads.append(name)
        del self.loaded[name]

    async def close(self) -> None:
        self.loaded.clear()

    async def let_load(self, problem: Problem | None = None) -> LoadSpec:
        """Let the next load end, well or with `problem`; what it was asked for."""
        spec, end = await self.loads.get()
        if problem is None:
            end.set_result(None)
        else:
            end.set_exception(LoadError(problem))
        return spec


class FakeSource:
    """Yields the snapshots that the test puts."""

    name = "directory:/manifests"

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Snapshot] = asyncio.Queue()

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        while True:
            yield await self.queue.get()

    def declare(self, *specs: tuple[str, LoadSpec], flaw: Flaw | None = None) -> None:
        files = [ManifestFile(f"{n}.yaml", (Declared(n, spec, 1),)) for n, spec in specs]
        if flaw is not None:
            files.append(ManifestFile("bad.yaml", flaws=(flaw,)))
        self.queue.put_nowait(Snapshot(self.name, tuple(files)))


class Bench:
    """A controller with its fakes."""

    def __init__(self, state: Path, models: Path, budget: int) -> None:
        self.store = Store(state)
        self.engine = FakeEngine(budget)
        self.source = FakeSource()

        def make(on_death: Callable[[str, Problem], None]) -> FakeEngine:
            self.engine.on_death = on_death
            return self.engine

        self.controller = Controller(self.store, Catalog([Directory(models)]), make, [self.source])

    async def ready(self, name: str, generation: int = 1) -> Answer:
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
        """Wait for a reason of the Ready condition; its message."""

        def found() -> str | None:
            answer = self.controller.answer(name)
            ready = answer.status.condition("Ready") if answer is not None else None
            return ready.message if ready is not None and ready.reason == reason else None

        await self.controller.until(lambda: found() is not None)
        return found() or ""


@pytest.fixture
def budget() -> int:
    """Bytes that models may take."""
    return 10**9


@pytest.fixture
async def bench(tmp_path: Path, models: Path, budget: int) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "state", models, budget)
    await bench.controller.start()
    yield bench
    await bench.controller.close()
    bench.store.close()


def spec(model: str = "tiny/llama", **config: int) -> LoadSpec:
    return LoadSpec(model, Asked(**config))  # type: ignore[arg-type]


def request(model: str = "tiny/llama", **config: int) -> LoadRequest:
    return LoadRequest(model, Asked(**config))  # type: ignore[arg-type]


async def load(bench: Bench, wanted: LoadRequest, problem: Problem | None = None) -> Answer:
    """A load by HTTP, and the end of the engine's work on it."""
    asking = asyncio.create_task(bench.controller.load(wanted))
    await bench.engine.let_load(problem)
    return await asking


async def test_an_update_that_fails_leaves_the_previous_spec_in_force(bench: Bench) -> None:
    await load(bench, request(context_length=100))
    with pytest.raises(LoadError, match="it broke"):
        await load(bench, request(context_length=200), BROKEN)
    answer = await bench.ready("tiny/llama")
    assert answer.record.spec.config.context_length == 100
    assert bench.engine.loaded["tiny/llama"].config.context_length == 100
    assert bench.engine.loads.empty()


async def test_a_failed_first_load_tells_everyone_who_joined_it(bench: Bench) -> None:
    asking = [asyncio.create_task(bench.controller.load(request())) for _ in range(3)]
    await bench.engine.let_load(BROKEN)
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(r) for r in results] == ["it broke"] * 3
    assert bench.controller.answers() == ()
    assert bench.store.load() == []
    assert bench.engine.loads.empty()


async def test_a_change_that_lands_during_a_load_is_not_lost(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=100)))
    first, end = await bench.engine.loads.get()
    bench.source.declare(("a", spec(context_length=200)))
    await bench.controller.until(lambda: bench.controller.answers()[0].record.generation == 2)
    end.set_result(None)
    second = await bench.engine.let_load()
    assert (first, second) == (spec(context_length=100), spec(context_length=200))
    assert (await bench.ready("a", 2)).status.observed_generation == 2


async def test_what_is_removed_during_its_load_is_unloaded(bench: Bench) -> None:
    asking = asyncio.create_task(bench.controller.load(request()))
    _, end = await bench.engine.loads.get()
    unloading = asyncio.create_task(bench.controller.unload("tiny/llama"))
    with pytest.raises(LoadError, match="was unloaded"):
        await asking
    end.set_result(None)
    await unloading
    assert bench.engine.unloads == ["tiny/llama"]
    assert bench.controller.instances() == ()


async def test_weights_are_read_one_checkpoint_at_a_time(bench: Bench) -> None:
    bench.source.declare(("a", spec()), ("b", spec("tiny/qwen3")))
    await bench.reason("b", "Queued")
    assert bench.engine.loads.qsize() == 1
    await bench.engine.let_load()
    await bench.engine.let_load()
    await bench.ready("b")


async def test_an_agreeing_pass_changes_nothing(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=100)))
    await bench.engine.let_load()
    before = await bench.ready("a")
    position = Position(1, 1)
    bench.source.declare(("a", spec(context_length=100)), flaw=Flaw("bad", position))
    await bench.controller.until(lambda: _files(bench) == 2)
    await load(bench, request("tiny/qwen3"))
    assert bench.controller.answer("a") == before


def _files(bench: Bench) -> int:
    view = bench.controller.sources()[FakeSource.name]
    return len(view.snapshot.files) if view is not None else 0


async def test_a_changed_record_is_not_ready_for_one_moment_with_what_was_loaded_before(
    bench: Bench,
) -> None:
    await load(bench, request(context_length=100))
    asking = asyncio.create_task(bench.controller.load(request(context_length=200)))
    await bench.controller.until(lambda: bench.controller.answers()[0].record.generation == 2)
    (answer,) = bench.controller.answers()
    assert answer.status.ready is False
    assert answer.status.config is not None
    assert answer.status.config.context_length == 100
    await bench.engine.let_load()
    assert (await asking).status.ready


async def test_who_joined_a_load_that_is_suspended_is_told(bench: Bench) -> None:
    bench.source.declare(("tiny/llama", spec()))
    _, end = await bench.engine.loads.get()
    asking = asyncio.create_task(bench.controller.load(request()))
    while not bench.controller._book.entries["tiny/llama"].waiters:  # noqa: ASYNC110  no event
        await asyncio.sleep(0)
    bench.source.declare(("tiny/llama", replace(spec(), suspend=True)))
    await bench.controller.until(lambda: bench.controller.answers()[0].record.generation == 2)
    end.set_result(None)
    with pytest.raises(LoadError, match="suspended by") as raised:
        await asking
    assert raised.value.problem.cause is Cause.SUSPENDED
    assert bench.engine.unloads == ["tiny/llama"]


async def test_a_dead_worker_is_replaced_under_back_off(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=100)))
    await bench.engine.let_load()
    await bench.ready("a")
    del bench.engine.loaded["a"]
    bench.engine.on_death("a", Problem(Cause.WORKER_DIED, "killed by signal 9", permanent=False))
    message = await bench.reason("a", "BackingOff")
    assert "killed by signal 9" in message
    answer = bench.controller.answer("a")
    assert answer is not None
    assert (answer.status.config, answer.status.restarts) == (None, 1)


async def test_an_unforeseen_error_is_a_failure_like_any_other(bench: Bench) -> None:
    asking = asyncio.create_task(bench.controller.load(request()))
    _, end = await bench.engine.loads.get()
    end.set_exception(ZeroDivisionError("a bug"))
    with pytest.raises(LoadError, match="ZeroDivisionError: a bug"):
        await asking
    assert (await load(bench, request("tiny/qwen3"))).status.ready


async def test_without_a_worker_a_load_says_why_it_cannot_be(tmp_path: Path, models: Path) -> None:
    bench = Bench(tmp_path, models, 0)
    bench.engine.startable = False
    await bench.controller.start()
    with pytest.raises(LoadError, match="no module named mlx") as raised:
        await bench.controller.load(request())
    assert raised.value.problem.cause is Cause.ENGINE_UNAVAILABLE
    assert bench.controller.engine_problem == raised.value.problem
    await bench.controller.close()
    bench.store.close()


class TestOnASmallMachine:
    """A machine that holds tiny/llama with a small context, and little else."""

    @pytest.fixture
    def budget(self, models: Path) -> int:
        facts = read_facts(models / "tiny/llama")
        return facts.weights_bytes + 1000 * facts.kv_bytes_per_token

    async def test_a_load_that_does_not_fit_now_is_refused_with_who_holds_what(
        self, bench: Bench
    ) -> None:
        await load(bench, request(context_length=900))
        with pytest.raises(LoadError, match=r"in use: tiny/llama \d") as raised:
            await bench.controller.load(request("tiny/llama-4bit", context_length=900))
        assert raised.value.problem.cause is Cause.INSUFFICIENT_MEMORY
        assert [a.record.name for a in bench.controller.answers()] == ["tiny/llama"]

    async def test_a_manifest_that_does_not_fit_now_waits_and_is_loaded_on_release(
        self, bench: Bench
    ) -> None:
        await load(bench, request(context_length=900))
        bench.source.declare(("a", spec("tiny/llama-4bit", context_length=900)))
        assert "tiny/llama" in await bench.reason("a", "WaitingForMemory")
        await bench.controller.unload("tiny/llama")
        await bench.engine.let_load()
        await bench.ready("a")

    async def test_a_default_context_is_capped_with_a_warning(self, bench: Bench) -> None:
        answer = await load(bench, request())
        assert answer.status.config is not None
        assert answer.status.config.context_length == 1000
        assert [w.key for w in answer.status.warnings] == ["context_length"]

    async def test_a_context_that_never_fits_is_impossible(self, bench: Bench) -> None:
        with pytest.raises(LoadError, match="room for 1000 tokens") as raised:
            await bench.controller.load(request(context_length=1001))
        assert raised.value.problem.param == "context_length"
        assert bench.controller.answers() == ()
