"""Known faults of other reconcilers that no other test covers; see docs/guarantees.md."""

import asyncio
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from reconciler.core.errors import Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.records import ModelRef
from reconciler.models.catalog import Catalog
from reconciler.models.checkpoint import read_facts
from tests.controller.fakes import Bench, load, request, spec

KILLED = Problem(Reason.WORKER_DIED, "killed by signal 9", permanent=False)


def why(bench: Bench, name: str) -> str:
    """Message of the Ready condition."""
    answer = bench.controller.answer(name)
    ready = answer.status.condition("Ready") if answer is not None else None
    return ready.message if ready is not None else ""


async def test_the_number_of_restarts_is_not_the_number_of_consecutive_failures(
    bench: Bench,
) -> None:
    bench.source.declare(("a", spec()))
    await bench.engine.let_load()
    for restarts in range(1, 8):
        await bench.ready("a")
        bench.engine.on_death(bench.engine.loaded.pop("a"), KILLED)
        await bench.controller.until(lambda: "attempt 1 failed" in why(bench, "a"))
        answer = bench.controller.answer("a")
        assert answer is not None
        assert answer.status.restarts == restarts
        bench.clock.advance(1)
        await bench.engine.let_load()
    await bench.ready("a")


class TestWhereTheContextIsCapped:
    """A machine with too little memory for the maximum context of any model."""

    @pytest.fixture
    def budget(self, models: Path) -> int:
        facts = read_facts(models / "tiny/llama")
        return facts.weights_bytes + 1000 * facts.kv_bytes_per_token

    async def test_effective_settings_that_differ_from_the_spec_are_not_drift(
        self, bench: Bench
    ) -> None:
        bench.source.declare(("a", spec()))
        await bench.engine.let_load()
        before = await bench.ready("a")
        assert before.status.config is not None
        assert before.status.config.context_length == 1000
        for _ in range(3):
            bench.clock.advance(31)  # the files are checked again
            bench.source.declare(("a", spec()))
            await bench.controller.until(bench.source.queue.empty)
        await bench.restart()
        bench.source.declare(("a", spec()))
        await bench.engine.let_load()
        after = await bench.ready("a")
        assert after.record.generation == before.record.generation == 1
        assert bench.engine.loads.empty()


async def test_state_read_before_an_await_is_not_used_after_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a load looks up its model, the record that it would join is removed."""
    first = await load(bench, request(context_length=100))
    begun, goes_on = threading.Event(), threading.Event()
    find = Catalog.find_all

    def find_slowly(
        catalog: Catalog, refs: Iterable[ModelRef]
    ) -> Mapping[ModelRef, Checkpoint | Problem]:
        begun.set()
        assert goes_on.wait(60)
        return find(catalog, refs)

    monkeypatch.setattr(Catalog, "find_all", find_slowly)
    asking = asyncio.create_task(bench.controller.load(request(context_length=100)))
    await asyncio.to_thread(begun.wait)
    await bench.controller.unload("tiny/llama")
    goes_on.set()
    await bench.engine.let_load()
    answer = await asking
    assert not answer.joined
    assert answer.status.ready
    assert answer.record.created_at > first.record.created_at
