"""The controller with a fake engine and a fake clock; the store and model files are real."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.core.absorb import VANISHED_SECONDS
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.manifest import Diagnostic, SourceLocation
from reconciler.models.checkpoint import read_facts
from tests.controller.fakes import Bench, FakeSource, load, request, spec

BROKEN = Problem(Reason.LOAD_FAILED, "it broke", permanent=True)


async def test_a_failed_update_keeps_the_previous_spec(bench: Bench) -> None:
    await load(bench, request(context_length=100))
    with pytest.raises(LoadError, match="it broke"):
        await load(bench, request(context_length=200), BROKEN)
    answer = await bench.ready("tiny/llama")
    assert answer.record.spec.config.context_length == 100
    assert bench.engine.loaded["tiny/llama"].config.context_length == 100
    assert bench.engine.loads.empty()


async def test_a_failed_first_load_fails_for_all_callers_that_joined_it(bench: Bench) -> None:
    asking = [asyncio.create_task(bench.controller.load(request())) for _ in range(3)]
    await bench.asked("tiny/llama", 3)
    await bench.engine.let_load(BROKEN)
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(r) for r in results] == ["it broke"] * 3
    assert bench.controller.answers() == ()
    assert bench.store.load() == []
    assert bench.engine.loads.empty()


async def test_a_change_during_a_load_is_not_lost(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=100)))
    first, end = await bench.engine.loads.get()
    bench.source.declare(("a", spec(context_length=200)))
    await bench.controller.until(lambda: bench.controller.answers()[0].record.generation == 2)
    end.set_result(None)
    second = await bench.engine.let_load()
    assert (first, second) == (spec(context_length=100), spec(context_length=200))
    assert (await bench.ready("a", 2)).status.observed_generation == 2


async def test_the_load_of_a_removed_record_is_cancelled(bench: Bench) -> None:
    asking = asyncio.create_task(bench.controller.load(request()))
    _, end = await bench.engine.loads.get()
    await bench.controller.unload("tiny/llama")
    with pytest.raises(LoadError, match="'tiny/llama' was unloaded") as raised:
        await asking
    assert raised.value.problem.reason is Reason.REMOVED
    assert end.cancelled()
    assert bench.controller.instances() == ()
    assert bench.controller.is_gone("tiny/llama")
    assert (await load(bench, request())).status.ready


async def test_the_load_of_a_record_that_its_manifest_drops_is_cancelled(
    bench: Bench,
) -> None:
    bench.source.declare(("a", spec()), ("b", spec("tiny/qwen3")))
    _, end = await bench.engine.loads.get()
    bench.source.declare(("b", spec("tiny/qwen3")))
    await bench.controller.until(lambda: _files(bench) == 1)
    bench.clock.advance(VANISHED_SECONDS)
    await bench.controller.until(lambda: bench.controller.is_gone("a"))
    assert end.cancelled()
    await bench.engine.let_load()
    await bench.ready("b")
    await bench.crash()
    assert bench.store.suspicions() == {}  # a record that is declared again is not suspected


async def test_a_request_for_a_loading_instance_waits_for_it(bench: Bench) -> None:
    bench.source.declare(("a", spec()))
    _, end = await bench.engine.loads.get()
    asking = [
        asyncio.create_task(bench.controller.ready_for(model))
        for model in ("a", "tiny/llama", "Tiny/LLAMA")
    ]
    with pytest.raises(LoadError, match="no instance of tiny/qwen3 is loaded") as raised:
        await bench.controller.ready_for("tiny/qwen3")
    assert raised.value.problem.reason is Reason.NOT_LOADED
    assert not any(task.done() for task in asking)
    end.set_result(None)
    assert await asyncio.gather(*asking) == ["a", "a", "a"]


async def test_during_an_update_the_old_model_answers_only_for_itself(
    bench: Bench,
) -> None:
    bench.source.declare(("a", spec("tiny/llama")))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.source.declare(("a", spec("tiny/qwen3")))
    _, end = await bench.engine.loads.get()
    assert await bench.controller.ready_for("tiny/llama") == "a"
    asking = asyncio.create_task(bench.controller.ready_for("tiny/qwen3"))
    await asyncio.sleep(0)
    assert not asking.done()
    end.set_result(None)
    assert await asking == "a"
    with pytest.raises(LoadError, match="no instance of tiny/llama"):
        await bench.controller.ready_for("tiny/llama")


async def test_weights_are_read_one_checkpoint_at_a_time(bench: Bench) -> None:
    bench.source.declare(("a", spec()), ("b", spec("tiny/qwen3")))
    await bench.reason("b", "Queued")
    assert bench.engine.loads.qsize() == 1
    await bench.engine.let_load()
    await bench.engine.let_load()
    await bench.ready("b")


async def test_a_pass_without_differences_changes_nothing(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=100)))
    await bench.engine.let_load()
    before = await bench.ready("a")
    position = SourceLocation(1, 1)
    bench.source.declare(("a", spec(context_length=100)), flaw=Diagnostic("bad", position))
    await bench.controller.until(lambda: _files(bench) == 2)
    await load(bench, request("tiny/qwen3"))
    assert bench.controller.answer("a") == before


def _files(bench: Bench) -> int:
    view = bench.controller.source(FakeSource.name).view
    return len(view.snapshot.files) if view is not None else 0


async def test_a_changed_record_is_never_ready_with_its_previous_settings(
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


async def test_a_caller_that_joined_a_load_gets_an_error_when_it_is_suspended(bench: Bench) -> None:
    bench.source.declare(("tiny/llama", spec()))
    _, end = await bench.engine.loads.get()
    asking = asyncio.create_task(bench.controller.load(request()))
    await bench.asked("tiny/llama")
    bench.source.declare(("tiny/llama", replace(spec(), suspend=True)))
    with pytest.raises(LoadError, match="suspended by") as raised:
        await asking
    assert raised.value.problem.reason is Reason.SUSPENDED
    assert end.cancelled()
    assert bench.controller.instances() == ()


async def test_a_dead_worker_is_replaced_under_back_off(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=100)))
    await bench.engine.let_load()
    await bench.ready("a")
    gone = bench.engine.loaded.pop("a")
    bench.engine.on_death(gone, Problem(Reason.WORKER_HUNG, "it is silent", permanent=False))
    at_once = bench.controller.answer("a")
    assert at_once is not None
    assert not at_once.status.ready
    message = await bench.reason("a", "WorkerHung")
    assert "it is silent" in message
    answer = bench.controller.answer("a")
    assert answer is not None
    assert (answer.status.config, answer.status.restarts) == (None, 1)


async def test_an_unexpected_error_is_a_failure_like_any_other(bench: Bench) -> None:
    asking = asyncio.create_task(bench.controller.load(request()))
    _, end = await bench.engine.loads.get()
    end.set_exception(ZeroDivisionError("a bug"))
    with pytest.raises(LoadError, match="ZeroDivisionError: a bug"):
        await asking
    assert (await load(bench, request("tiny/qwen3"))).status.ready


async def test_without_a_worker_a_load_fails_with_the_reason(tmp_path: Path, models: Path) -> None:
    bench = Bench(tmp_path, models, 0)
    bench.engine.startable = False
    await bench.controller.start()
    with pytest.raises(LoadError, match="no module named mlx") as raised:
        await bench.controller.load(request())
    assert raised.value.problem.reason is Reason.ENGINE_UNAVAILABLE
    assert bench.controller.problem == raised.value.problem
    await bench.close()


class TestOnASmallMachine:
    """A machine with memory for tiny/llama with a small context, and little else."""

    @pytest.fixture
    def budget(self, models: Path) -> int:
        facts = read_facts(models / "tiny/llama")
        return facts.weights_bytes + 1000 * facts.kv_bytes_per_token

    async def test_a_load_that_does_not_fit_now_is_rejected_with_a_list_of_holders(
        self, bench: Bench
    ) -> None:
        await load(bench, request(context_length=900))
        with pytest.raises(LoadError, match=r"in use: tiny/llama \d") as raised:
            await bench.controller.load(request("tiny/llama-4bit", context_length=900))
        assert raised.value.problem.reason is Reason.INSUFFICIENT_MEMORY
        assert [a.record.name for a in bench.controller.answers()] == ["tiny/llama"]

    async def test_a_manifest_that_does_not_fit_now_waits_until_memory_is_free(
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


async def test_counts_of_an_instance_are_dropped_with_its_record(bench: Bench) -> None:
    def counted() -> set[str]:
        families = bench.controller.metrics.registry.collect()
        return {s.labels["instance"] for f in families for s in f.samples if "instance" in s.labels}

    for name in ("a", "b"):
        await load(bench, replace(request(), instance_id=name))
        async with bench.controller.request(name, "completions", b""):
            pass
    assert counted() == {"a", "b"}
    await bench.controller.unload("a")
    await bench.controller.until(lambda: counted() == {"b"})
