"""Overlapping, late and slow operations, with a fake clock."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.controller.lookups import RECHECK_SECONDS
from reconciler.core.absorb import EMPTY_SECONDS, VANISHED_SECONDS
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.records import RequestedSettings
from reconciler.core.snapshot import Snapshot
from reconciler.models.checkpoint import read_facts
from tests.controller.fakes import Bench, FakeSource, load, request, spec, spin

HICCUP = Problem(Reason.LOAD_FAILED, "hiccup", permanent=False)
BROKEN = Problem(Reason.LOAD_FAILED, "it broke")


def reasons(bench: Bench, name: str) -> dict[str, tuple[str, str]]:
    answer = bench.controller.answer(name)
    assert answer is not None
    return {c.type: (c.status, c.reason) for c in answer.status.conditions}


async def is_loaded(bench: Bench, name: str, **config: int) -> None:
    """Wait until an instance has these settings."""

    def holds() -> bool:
        instance = bench.engine.loaded.get(name)
        return instance is not None and instance.spec.config.sent() == config

    await bench.controller.until(holds)


# -- failures ------------------------------------------------------------------------------


async def test_back_off_doubles_from_1_to_300_seconds_and_a_success_resets_it(
    bench: Bench,
) -> None:
    bench.source.declare(("a", spec()))
    for delay in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        await bench.engine.let_load(HICCUP)
        await bench.reason("a", "BackingOff")
        bench.clock.advance(delay - 0.01)
        await load(bench, request("tiny/qwen3"))  # a due retry would have come first
        await bench.controller.unload("tiny/qwen3")
        assert bench.engine.loads.empty()
        bench.clock.advance(0.01)
    await bench.engine.let_load()
    await bench.ready("a")
    bench.engine.on_death(bench.engine.loaded.pop("a"), HICCUP)
    await bench.reason("a", "BackingOff")
    bench.clock.advance(1)
    await bench.engine.let_load()
    await bench.ready("a")


async def test_a_change_of_spec_resets_back_off(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=1)))
    await bench.engine.let_load(HICCUP)
    await bench.reason("a", "BackingOff")
    bench.source.declare(("a", spec(context_length=2)))
    assert await bench.engine.let_load() == spec(context_length=2)


async def test_a_permanent_failure_waits_for_a_change_of_the_files(
    bench: Bench, models: Path
) -> None:
    bench.source.declare(("a", spec()))
    await bench.engine.let_load(BROKEN)
    await bench.reason("a", "LoadFailed")
    assert reasons(bench, "a")["Stalled"] == ("True", "LoadFailed")
    bench.clock.advance(10 * RECHECK_SECONDS)
    await load(bench, request("tiny/qwen3"))
    assert bench.engine.loads.empty()
    config = models / "tiny/llama/config.json"
    data = config.read_bytes()
    try:
        config.write_bytes(data + b"\n")
        bench.clock.advance(RECHECK_SECONDS)
        await bench.engine.let_load()
        await bench.ready("a")
    finally:
        config.write_bytes(data)


async def test_loads_of_a_manifest_are_retried_for_ever(bench: Bench) -> None:
    bench.source.declare(("a", spec()))
    for _ in range(30):
        await bench.engine.let_load(HICCUP)
        await bench.reason("a", "BackingOff")
        bench.clock.advance(300)
    await bench.engine.let_load()
    await bench.ready("a")


# -- rolling back --------------------------------------------------------------------------


class TestWhereOnlyOneFits:
    """A machine with memory for one model."""

    @pytest.fixture
    def budget(self, models: Path) -> int:
        facts = read_facts(models / "tiny/llama")
        return facts.weights_bytes + 1000 * facts.kv_bytes_per_token

    async def rolled_back(self, bench: Bench, problem: Problem) -> None:
        """Load tiny/llama, declare another model, and fail its load."""
        bench.source.declare(("a", spec(context_length=900)))
        await bench.engine.let_load()
        await bench.ready("a")
        bench.source.declare(("a", spec("tiny/llama-4bit", context_length=900)))
        await bench.engine.let_load(problem)
        assert await bench.engine.let_load() == spec(context_length=900)
        await bench.reason("a", "RolledBack")

    async def test_a_failed_update_restores_the_previous_model(self, bench: Bench) -> None:
        await self.rolled_back(bench, BROKEN)
        assert reasons(bench, "a") == {
            "Ready": ("False", "RolledBack"),
            "Progressing": ("False", "LoadFailed"),
            "Stalled": ("True", "LoadFailed"),
        }
        answer = bench.controller.answer("a")
        assert answer is not None
        assert (answer.record.generation, answer.status.observed_generation) == (2, 1)
        assert answer.status.config is not None
        assert answer.status.config.context_length == 900
        assert "it broke" in answer.status.conditions[0].message

    async def test_a_transient_failure_is_retried_and_rolled_back_again(self, bench: Bench) -> None:
        await self.rolled_back(bench, HICCUP)
        bench.clock.advance(1)
        await bench.engine.let_load(HICCUP)
        await bench.engine.let_load()
        await bench.reason("a", "RolledBack")
        bench.clock.advance(2)
        assert (await bench.engine.let_load()).model == "tiny/llama-4bit"
        assert (await bench.ready("a", 2)).status.observed_generation == 2

    async def test_a_failed_rollback_has_its_own_back_off(self, bench: Bench) -> None:
        bench.source.declare(("a", spec(context_length=900)))
        await bench.engine.let_load()
        await bench.ready("a")
        bench.source.declare(("a", spec("tiny/llama-4bit", context_length=900)))
        await bench.engine.let_load(BROKEN)
        await bench.engine.let_load(HICCUP)
        await bench.reason("a", "LoadFailed")
        bench.clock.advance(1)
        assert await bench.engine.let_load() == spec(context_length=900)
        await bench.reason("a", "RolledBack")

    async def test_the_last_good_spec_is_also_restored_after_a_restart(self, bench: Bench) -> None:
        await self.rolled_back(bench, BROKEN)
        await bench.restart()
        assert (await bench.engine.let_load(BROKEN)).model == "tiny/llama-4bit"
        assert await bench.engine.let_load() == spec(context_length=900)
        await bench.reason("a", "RolledBack")

    async def test_load_first_waits_rather_than_unload_the_serving_one(self, bench: Bench) -> None:
        bench.source.declare(("a", spec(context_length=900)))
        await bench.engine.let_load()
        wanted = spec("tiny/llama-4bit", context_length=900)
        bench.source.declare(("a", replace(wanted, update_strategy="load-first")))
        await bench.reason("a", "WaitingForMemory")
        await is_loaded(bench, "a", context_length=900)
        assert bench.engine.loads.empty()

    async def test_an_update_by_http_fails_after_the_previous_spec_is_loaded_again(
        self, bench: Bench
    ) -> None:
        await load(bench, replace(request(context_length=900), instance_id="a"))
        wanted = replace(request("tiny/llama-4bit", context_length=900), instance_id="a")
        asking = asyncio.create_task(bench.controller.load(wanted))
        await bench.engine.let_load(BROKEN)
        assert not asking.done()
        await bench.engine.let_load()
        with pytest.raises(LoadError, match="it broke"):
            await asking
        await is_loaded(bench, "a", context_length=900)
        assert (await bench.ready("a", 3)).record.spec.model == "tiny/llama"


@pytest.mark.parametrize("suspended", [True, False], ids=["was suspended", "is new"])
async def test_an_update_that_fails_while_an_older_load_runs_is_rolled_back_to_it(
    bench: Bench, suspended: bool
) -> None:
    """The older spec becomes the last good one only once its load has ended."""
    if suspended:
        await bench.controller.put("a", replace(spec(), suspend=True), wait=False)
    await bench.controller.put("a", spec(), wait=False)
    _, end = await bench.engine.loads.get()
    asking = asyncio.create_task(bench.controller.put("a", spec(context_length=10**9), wait=True))
    await bench.reason("a", "RollingBack")
    end.set_result(None)
    with pytest.raises(LoadError, match="exceeds the model's maximum"):
        await asking
    assert (await bench.ready("a")).record.spec == spec()
    assert [g.outcome for g in bench.controller.history("a")][:2] == ["Loaded", "Failed"]
    assert bench.engine.loads.empty()


async def test_unload_first_unloads_before_it_loads(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=100)))
    await bench.engine.let_load()
    await bench.ready("a")
    wanted = replace(spec("tiny/qwen3"), update_strategy="unload-first")
    bench.source.declare(("a", wanted))
    _, end = await bench.engine.loads.get()
    assert "a" not in bench.engine.loaded
    end.set_result(None)
    await bench.ready("a", 2)


async def test_a_change_of_priority_or_update_strategy_reloads_nothing(bench: Bench) -> None:
    bench.source.declare(("a", spec()))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.source.declare(("a", replace(spec(), priority=5, update_strategy="load-first")))
    answer = await bench.ready("a", 2)
    assert answer.status.observed_generation == 2
    assert bench.engine.loads.empty()


# -- overlaps ------------------------------------------------------------------------------


async def test_a_record_recreated_while_its_instance_drains_is_loaded_again(bench: Bench) -> None:
    await load(bench, request(context_length=100))
    bench.engine.draining = asyncio.get_running_loop().create_future()
    unloading = asyncio.create_task(bench.controller.unload("tiny/llama"))
    await spin(lambda: bench.engine.unloads == ["tiny/llama"])
    asking = asyncio.create_task(bench.controller.load(request(context_length=200)))
    await bench.asked("tiny/llama")
    assert bench.engine.loads.empty()
    bench.engine.draining.set_result(None)
    await unloading
    assert await bench.engine.let_load() == spec(context_length=200)
    answer = await asking
    assert (answer.joined, answer.record.generation) == (False, 1)


async def test_a_record_recreated_during_its_load_is_loaded_at_once(bench: Bench) -> None:
    first = asyncio.create_task(bench.controller.load(request(context_length=100)))
    _, end = await bench.engine.loads.get()
    unloading = asyncio.create_task(bench.controller.unload("tiny/llama"))
    with pytest.raises(LoadError, match="was unloaded"):
        await first
    answer = await load(bench, request(context_length=200))
    await unloading
    assert end.cancelled()
    assert (answer.record.generation, answer.joined) == (1, False)
    assert bench.engine.loaded["tiny/llama"].config.context_length == 200


async def test_100_records_changed_at_once_are_all_loaded(bench: Bench) -> None:
    names = [f"n{i:02}" for i in range(100)]

    async def declare(generation: int) -> None:
        length = 10 * generation
        bench.source.declare(*((name, spec(context_length=length)) for name in names))
        records = bench.controller._registry.records
        while [r.generation for r in records.values()] != [generation] * len(names):
            bench.clock.advance(0.0)  # they are applied in batches
            await asyncio.sleep(0)
        for _ in names:
            await bench.engine.let_load()

    await declare(1)
    for name in names:
        await bench.ready(name)
    await declare(2)
    for name in names:
        await bench.ready(name, 2)
        await is_loaded(bench, name, context_length=20)


async def test_a_manifest_takes_over_an_http_record_and_nothing_is_reloaded(bench: Bench) -> None:
    await load(bench, request(context_length=100))
    bench.source.declare(("tiny/llama", spec(context_length=100)))
    await bench.controller.until(
        lambda: bench.controller.answers()[0].record.owner == FakeSource.name
    )
    answer = await bench.ready("tiny/llama")
    assert answer.record.generation == 1
    assert bench.engine.loads.empty()
    assert bench.engine.unloads == []
    with pytest.raises(LoadError, match=r"suspend: true"):
        await bench.controller.unload("tiny/llama")


async def test_manifests_load_before_http_records_and_by_priority(bench: Bench) -> None:
    await load(bench, request("openai/gpt-oss-20b"))
    low, high = spec("tiny/llama"), replace(spec("tiny/qwen3"), priority=1)
    bench.source.declare(("low", low), ("high", high))
    for _ in range(2):
        await bench.engine.let_load()
    await bench.ready("low")
    await bench.ready("high")
    await bench.restart()
    order = [(await bench.engine.let_load()).model for _ in range(3)]
    assert order == ["tiny/qwen3", "tiny/llama", "openai/gpt-oss-20b"]


# -- sources -------------------------------------------------------------------------------


def empty(bench: Bench) -> None:
    bench.source.queue.put_nowait(Snapshot(bench.source.name, empty=True))


async def test_an_emptied_directory_is_applied_after_30_seconds(bench: Bench) -> None:
    bench.source.declare(("a", spec()))
    await bench.engine.let_load()
    await bench.ready("a")
    empty(bench)
    await bench.controller.until(lambda: _view(bench).empty)
    bench.clock.advance(EMPTY_SECONDS - 0.01)
    await load(bench, request("tiny/qwen3"))
    assert "a" in bench.engine.loaded
    bench.clock.advance(0.01)
    await bench.controller.until(lambda: bench.controller.is_gone("a"))


async def test_an_unreadable_directory_keeps_its_records_for_ever(bench: Bench) -> None:
    bench.source.declare(("a", spec()))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.source.queue.put_nowait(Snapshot(bench.source.name, unreadable="it is gone"))
    await bench.controller.until(lambda: _view(bench).unreadable is not None)
    bench.clock.advance(100_000)
    await load(bench, request("tiny/qwen3"))
    answer = await bench.ready("a")
    assert [c.message for c in bench.controller.complaints(answer.record)] == ["it is gone"]


async def test_a_document_that_vanishes_is_removed_after_2_seconds(bench: Bench) -> None:
    bench.source.declare(("a", spec()), ("b", spec()))
    for name in ("a", "b"):
        await bench.engine.let_load()
        await bench.ready(name)
    bench.source.declare(("b", spec()))
    await bench.controller.until(lambda: len(_view(bench).files) == 1)
    bench.clock.advance(VANISHED_SECONDS - 0.01)
    await load(bench, request("tiny/qwen3"))
    assert "a" in bench.engine.loaded
    bench.clock.advance(0.01)
    await bench.controller.until(lambda: bench.controller.is_gone("a"))
    await bench.ready("b")


def _view(bench: Bench) -> Snapshot:
    view = bench.controller.source(FakeSource.name).view
    return view.snapshot if view is not None else Snapshot("none")


# -- files of a model that change ----------------------------------------------------------


async def test_changed_files_of_a_loaded_instance_are_reported_and_not_loaded(
    bench: Bench, models: Path
) -> None:
    await load(bench, request())
    before = (await bench.ready("tiny/llama")).status
    assert before.revision == before.revision_on_disk
    config = models / "tiny/llama/config.json"
    data = config.read_bytes()
    try:
        config.write_bytes(data + b" ")
        bench.clock.advance(RECHECK_SECONDS)
        await bench.controller.until(lambda: bool(_warnings(bench)))
        status = (await bench.ready("tiny/llama")).status
        assert status.revision == before.revision
        assert status.revision_on_disk != before.revision
        assert _warnings(bench) == ["model"]
        assert bench.engine.loads.empty()
    finally:
        config.write_bytes(data)
    bench.clock.advance(RECHECK_SECONDS)


def _warnings(bench: Bench) -> list[str]:
    answer = bench.controller.answer("tiny/llama")
    return [w.key for w in answer.status.warnings] if answer is not None else []


async def test_weights_of_an_instance_that_is_being_replaced_are_not_read_twice(
    bench: Bench,
) -> None:
    first = replace(spec(), update_strategy="unload-first")
    bench.source.declare(("a", first))
    await bench.engine.let_load()
    await bench.ready("a")
    changed = replace(first, config=RequestedSettings(context_length=9))
    bench.source.declare(("a", changed))
    _, end = await bench.engine.loads.get()
    bench.source.declare(("a", changed), ("b", spec()))
    assert "under way" in await bench.reason("b", "Queued")
    assert bench.engine.loads.empty()
    end.set_result(None)
    await bench.engine.let_load()
    answer = await bench.ready("b")
    assert answer.status.loaded_by == "Attach"
