"""Idle instances are unloaded, and reloaded by a request."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.records import LoadSpec, RequestedSettings
from tests.controller.fakes import Bench, load, request, spec, spin
from tests.controller.machine import World

IDLE = replace(spec(), idle_ttl_seconds=100)


async def test_an_unused_instance_becomes_idle_and_a_request_reloads_it(
    bench: Bench,
) -> None:
    bench.source.declare(("a", IDLE))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.clock.advance(99)
    assert bench.controller.instances()
    bench.clock.advance(1)
    assert "100 s" in await bench.reason("a", "Idle")
    assert bench.controller.instances() == ()
    answer = bench.controller.answer("a")
    assert answer is not None
    states = {c.type: c.status for c in answer.status.conditions}
    assert states == {"Ready": "False", "Progressing": "False", "Stalled": "False"}
    asking = asyncio.create_task(bench.controller.ready_for("tiny/llama"))
    await bench.engine.let_load()
    assert await asking == "a"
    assert [g.outcome for g in bench.controller.history("a")] == ["Loaded"]


async def test_an_instance_without_requests_becomes_idle_on_time(bench: Bench) -> None:
    """The timeout is shorter than the interval of unconditional passes."""
    await load(bench, replace(request(), idle_ttl_seconds=5))
    bench.clock.advance(5)
    await bench.reason("tiny/llama", "Idle")


async def test_an_active_request_keeps_its_instance_loaded_and_its_end_restarts_the_timeout(
    bench: Bench,
) -> None:
    bench.source.declare(("a", IDLE))
    await bench.engine.let_load()
    await bench.ready("a")
    async with bench.controller.request("a", "completions", b""):
        bench.clock.advance(1000)
        await asyncio.sleep(0)
        assert bench.controller.instances()
    bench.clock.advance(60)
    assert bench.controller.instances()
    bench.clock.advance(60)
    await bench.reason("a", "Idle")


async def test_an_idle_record_stays_idle_after_a_restart(bench: Bench) -> None:
    bench.source.declare(("a", IDLE))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.clock.advance(100)
    await bench.reason("a", "Idle")
    await bench.restart()
    bench.source.declare(("a", IDLE))
    await bench.reason("a", "Idle")
    assert bench.engine.loads.empty()


async def test_a_load_and_a_changed_spec_wake_an_idle_record(bench: Bench) -> None:
    bench.source.declare(("a", IDLE))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.clock.advance(100)
    await bench.reason("a", "Idle")
    assert (await load(bench, request())).joined
    bench.clock.advance(100)
    await bench.reason("a", "Idle")
    bench.source.declare(("a", replace(IDLE, idle_ttl_seconds=200)))
    await bench.engine.let_load()
    assert (await bench.ready("a", generation=2)).record.generation == 2


async def test_a_failed_unload_does_not_retry_a_broken_spec(bench: Bench) -> None:
    bench.source.declare(("a", IDLE))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.source.declare(("a", replace(IDLE, config=RequestedSettings(context_length=9))))
    await bench.engine.let_load(Problem(Reason.LOAD_FAILED, "broken"))
    assert await bench.reason("a", "RolledBack")
    bench.engine.draining = asyncio.get_running_loop().create_future()
    bench.engine.draining.set_exception(LoadError(Problem(Reason.LOAD_FAILED, "hiccup")))
    bench.clock.advance(100)
    await spin(lambda: bool(bench.engine.unloads))
    bench.engine.draining = None
    while bench.controller.instances():
        bench.clock.advance(1)
        await asyncio.sleep(0)
    await bench.reason("a", "Idle")
    asking = asyncio.create_task(bench.controller.ready_for("a"))
    assert await bench.engine.let_load() == IDLE
    assert await asking == "a"


async def test_a_caller_gets_the_failure_of_a_change_to_an_expired_record(
    bench: Bench,
) -> None:
    await load(bench, replace(request(), idle_ttl_seconds=100))
    bench.clock.advance(99)
    changing = asyncio.create_task(bench.controller.load(request("tiny/llama", context_length=9)))
    spec, end = await bench.engine.loads.get()
    assert spec.config.context_length == 9
    bench.clock.advance(50)
    end.set_exception(LoadError(Problem(Reason.LOAD_FAILED, "broken")))
    with pytest.raises(LoadError, match="broken"):
        await changing
    assert bench.controller.instances()


async def test_the_idle_time_of_a_recreated_record_starts_with_its_load(bench: Bench) -> None:
    bench.clock.advance(1000)
    loading = asyncio.create_task(bench.controller.load(request()))
    await bench.engine.loads.get()
    unloading = asyncio.create_task(bench.controller.unload("tiny/llama"))
    with pytest.raises(LoadError, match="unloaded"):
        await loading
    putting = asyncio.create_task(bench.controller.put("tiny/llama", IDLE, wait=True))
    _, end = await bench.engine.loads.get()
    bench.clock.advance(1000)
    end.set_result(None)
    assert (await putting).status.ready
    await unloading
    bench.clock.advance(99)
    await bench.ready("tiny/llama")
    assert bench.engine.unloads == []


def test_a_record_with_a_waiting_request_is_not_idle(world: World) -> None:
    """Otherwise it would be unloaded and reloaded repeatedly while the request waits."""
    small = LoadSpec("p/small", idle_ttl_seconds=20, update_strategy="load-first")
    world.files["1.yaml"] = (("a", small),)
    world.scan()
    world.end(world.engine.pending[0], None)
    world.files["1.yaml"] = (("a", replace(small, model="p/big")),)
    world.scan()
    world.ask("p/big")
    world.pass_time(30)
    assert (list(world.engine.loaded), world.engine.pending) == (["a"], [])
    world.hang_up()
    world.pass_time(30)
    assert world.engine.pending or not world.engine.loaded


async def test_a_record_without_a_timeout_is_never_idle(bench: Bench) -> None:
    await load(bench, request())
    bench.clock.advance(10**6)
    await asyncio.sleep(0)
    assert bench.controller.instances()


async def test_an_http_load_can_set_the_idle_timeout_of_its_record(bench: Bench) -> None:
    await load(bench, request())
    answer = await bench.controller.load(replace(request(), idle_ttl_seconds=50))
    assert (answer.record.spec.idle_ttl_seconds, answer.record.generation) == (50, 2)
    bench.clock.advance(50)
    await bench.reason("tiny/llama", "Idle")


class TestJit:
    """Loads on demand, with `--jit`."""

    @pytest.fixture
    async def bench(self, tmp_path: Path, models: Path) -> AsyncIterator[Bench]:
        bench = Bench(tmp_path / "state", models, 10**9, jit=True)
        await bench.controller.start()
        yield bench
        await bench.close()

    async def test_many_first_requests_start_one_load(self, bench: Bench) -> None:
        asking = [asyncio.create_task(bench.controller.ready_for("tiny/llama")) for _ in range(5)]
        await bench.engine.let_load()
        assert await asyncio.gather(*asking) == ["tiny/llama"] * 5
        assert bench.engine.loads.empty()
        answer = bench.controller.answer("tiny/llama")
        assert answer is not None
        assert (answer.record.owner, answer.record.spec.idle_ttl_seconds) == ("http", 3600)

    async def test_a_load_continues_if_its_first_caller_disconnects(self, bench: Bench) -> None:
        first = asyncio.create_task(bench.controller.ready_for("tiny/llama"))
        await bench.asked("tiny/llama")
        first.cancel()
        second = asyncio.create_task(bench.controller.ready_for("tiny/llama"))
        await bench.engine.let_load()
        assert await second == "tiny/llama"
        assert bench.engine.loads.empty()

    async def test_a_missing_model_is_reported(self, bench: Bench) -> None:
        with pytest.raises(LoadError) as raised:
            await bench.controller.ready_for("no/such")
        assert raised.value.problem.reason is Reason.MODEL_NOT_FOUND

    async def test_a_suspended_record_is_not_loaded_on_demand(self, bench: Bench) -> None:
        bench.source.declare(("a", replace(spec(), suspend=True)))
        await bench.reason("a", "Suspended")
        with pytest.raises(LoadError, match="suspended") as raised:
            await bench.controller.ready_for("tiny/llama")
        assert raised.value.problem.reason is Reason.NOT_LOADED
