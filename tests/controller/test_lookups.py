"""Lookups of model files: concurrent, with a deadline; stale results are discarded."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.controller.lookups import LOOK_SECONDS, PATIENCE_SECONDS, RECHECK_SECONDS, Lookups
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Adapter, Checkpoint
from reconciler.core.records import ModelRef
from reconciler.models.download import Downloads, Job
from tests.controller.fakes import FakeClock, spin

A, B = ModelRef("p/a"), ModelRef("p/b")
MISSING = Problem(Reason.MODEL_NOT_FOUND, "it is not there")
THERE = Checkpoint("/p/a", "v1", "llama", 10, 50)


class Resolver:
    """A resolver whose lookups the test ends."""

    def __init__(self) -> None:
        self.looks: list[tuple[list[ModelRef], asyncio.Future[dict[ModelRef, object]]]] = []

    async def find_all(
        self, refs: Iterable[ModelRef], _patience: float | None = None
    ) -> Mapping[ModelRef, Checkpoint | Problem]:
        end: asyncio.Future[dict[ModelRef, object]] = asyncio.get_running_loop().create_future()
        self.looks.append((list(refs), end))
        return await end  # type: ignore[return-value]

    async def find(self, ref: ModelRef) -> Checkpoint:
        found = (await self.find_all([ref]))[ref]
        if isinstance(found, Problem):
            raise LoadError(found)
        return found

    def forget(self, base: ModelRef) -> None:
        """Nothing is kept here."""

    async def begun(self, count: int) -> None:
        await spin(lambda: len(self.looks) == count)


class Jobs(Downloads):
    """Fake download jobs."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.latest = Job(A.base)
        self._jobs = {"1": self.latest}
        self.begun: list[ModelRef] = []

    def begin(self, ref: ModelRef) -> Job:
        self.begun.append(ref)
        return Job(ref)


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.resolver = Resolver()
        self.jobs = Jobs()
        self.woken = 0
        self.lookups = Lookups(self.resolver, self.jobs, self.clock, self.wake)

    def wake(self) -> None:
        self.woken += 1

    def refresh(self, *refs: ModelRef) -> None:
        self.lookups.refresh(dict.fromkeys(refs, 0.0), refs)


async def test_a_lookup_runs_in_the_background_and_wakes_the_loop() -> None:
    bench = Bench()
    bench.refresh(A)
    assert bench.lookups.found() == {}
    assert bench.lookups.is_fresh(A)
    await bench.resolver.begun(1)
    bench.refresh(A)  # a lookup is in progress
    bench.clock.advance(PATIENCE_SECONDS)
    assert not bench.lookups.is_fresh(A)
    bench.resolver.looks[0][1].set_result({A: THERE})
    await spin(lambda: bench.woken == 1)
    assert bench.lookups.found() == {A: THERE}
    bench.refresh(A)
    await asyncio.sleep(0)
    assert len(bench.resolver.looks) == 1
    bench.clock.advance(RECHECK_SECONDS)
    bench.refresh(A)
    await bench.resolver.begun(2)
    await bench.lookups.close()


@pytest.mark.parametrize("announced", [True, False])
async def test_a_lookup_during_which_a_download_ended_is_discarded(announced: bool) -> None:
    bench = Bench()
    bench.refresh(A)
    await bench.resolver.begun(1)
    bench.jobs.latest.status = "completed"  # its process may still be about to end
    if announced:
        bench.lookups.forget(A)
    bench.resolver.looks[0][1].set_result({A: MISSING})
    await spin(lambda: bench.woken == 1)
    assert bench.lookups.found() == {}
    bench.refresh(A)
    await bench.resolver.begun(2)
    bench.resolver.looks[1][1].set_result({A: THERE})
    await spin(lambda: bench.woken == 2)
    assert bench.lookups.found() == {A: THERE}


PARTS = ModelRef("p/a", "v1", "p/adapter", "p/draft")


@pytest.mark.parametrize(
    ("reason", "part", "words"),
    [
        (Reason.MODEL_NOT_FOUND, ModelRef("p/a", "v1"), "waiting"),
        (Reason.ADAPTER_NOT_FOUND, ModelRef("p/adapter"), "adapter p/adapter: waiting"),
        (Reason.DRAFT_MODEL_NOT_FOUND, ModelRef("p/draft"), "draft model p/draft: waiting"),
    ],
)
async def test_the_part_that_is_missing_is_downloaded(
    reason: Reason, part: ModelRef, words: str
) -> None:
    bench = Bench()
    missing = Problem(reason, "it is not there", param="x")
    bench.lookups.refresh({PARTS: 0.0}, [])
    await bench.resolver.begun(1)
    bench.resolver.looks[0][1].set_result({PARTS: missing})
    await spin(lambda: bench.woken == 1)
    assert (bench.lookups.found(), bench.jobs.begun) == ({PARTS: missing}, [])
    bench.clock.advance(RECHECK_SECONDS)
    bench.refresh(PARTS)
    await bench.resolver.begun(2)
    bench.resolver.looks[1][1].set_result({PARTS: missing})
    await spin(lambda: bench.woken == 2)
    assert bench.jobs.begun == [part]
    found = bench.lookups.found()[PARTS]
    assert isinstance(found, Problem)
    assert (found.reason, found.message.startswith(words)) == (Reason.DOWNLOADING, True)
    bench.jobs.latest.ref, bench.jobs.latest.awaited = part, True
    bench.jobs.latest.status = "failed"
    bench.jobs.latest.problem = Problem(Reason.MODEL_NOT_FOUND, "no such model", permanent=False)
    bench.lookups.forget(part)  # its download has ended
    assert bench.lookups.found() == {}
    bench.refresh(PARTS)
    await bench.resolver.begun(3)
    bench.resolver.looks[2][1].set_result({PARTS: missing})
    await spin(lambda: bench.woken == 3)
    found = bench.lookups.found()[PARTS]
    assert isinstance(found, Problem)
    assert (found.reason, found.message[-13:]) == (reason, "no such model")


async def test_a_lookup_during_which_the_download_of_a_part_ended_is_discarded() -> None:
    bench = Bench()
    bench.refresh(PARTS)
    await bench.resolver.begun(1)
    bench.jobs.latest.ref, bench.jobs.latest.status = ModelRef("p/draft"), "completed"
    bench.resolver.looks[0][1].set_result({PARTS: MISSING})
    await spin(lambda: bench.woken == 1)
    assert (bench.lookups.found(), bench.jobs.begun) == ({}, [])


@pytest.mark.parametrize("part", ["/moved/model", "/moved/adapter", "/moved/draft"])
async def test_no_checkpoint_is_found_while_one_of_its_folders_is_moved(part: str) -> None:
    bench = Bench()
    adapter, draft = Adapter("/moved/adapter", "v1", 1, None), replace(THERE, path="/moved/draft")
    bench.lookups.note(A, replace(THERE, path="/moved/model", adapter=adapter, draft=draft))
    bench.lookups.note(B, THERE)
    with bench.lookups.moving(Path(part)):
        assert bench.lookups.found() == {B: THERE}


async def test_an_exception_of_a_shared_lookup_is_attributed_to_one_model() -> None:
    bench = Bench()
    bench.refresh(A, B)
    await bench.resolver.begun(1)
    bench.resolver.looks[0][1].set_exception(RecursionError("too deep"))
    await spin(lambda: bench.woken == 1)
    bench.refresh(A, B)
    await bench.resolver.begun(3)
    assert [refs for refs, _ in bench.resolver.looks[1:]] == [[A], [B]]
    bench.resolver.looks[1][1].set_exception(RecursionError("too deep"))
    bench.resolver.looks[2][1].set_result({B: THERE})
    await spin(lambda: bench.woken == 3)
    found = bench.lookups.found()
    assert found[B] == THERE
    problem = found[A]
    assert isinstance(problem, Problem)
    assert problem.reason is Reason.INVALID_CHECKPOINT
    assert "RecursionError: too deep" in problem.message


async def test_a_hanging_lookup_blocks_no_other_and_has_a_deadline() -> None:
    bench = Bench()
    bench.refresh(A, B)
    await bench.resolver.begun(1)
    bench.resolver.looks[0][1].set_result({B: THERE})  # its time limit is over
    await bench.resolver.begun(2)
    assert bench.resolver.looks[1][0] == [A]
    assert bench.lookups.found() == {B: THERE}
    finding = asyncio.create_task(bench.lookups.find(A))
    await bench.resolver.begun(3)
    bench.clock.advance(LOOK_SECONDS)
    await spin(lambda: A in bench.lookups.found())
    problem = bench.lookups.found()[A]
    assert isinstance(problem, Problem)
    assert "took longer than 60 s" in problem.message
    with pytest.raises(LoadError, match="took longer than 60 s"):
        await finding


async def test_a_hanging_lookup_after_a_failure_is_awaited_and_not_repeated() -> None:
    bench = Bench()
    bench.refresh(A)
    await bench.resolver.begun(1)
    bench.resolver.looks[0][1].set_exception(ZeroDivisionError("a bug"))
    await spin(lambda: bench.woken == 1)
    bench.clock.advance(RECHECK_SECONDS)
    bench.refresh(A)
    await bench.resolver.begun(2)
    bench.resolver.looks[1][1].set_result({})  # its time limit is over
    await spin(lambda: bench.woken == 2)
    for _ in range(10):
        bench.refresh(A)
        await asyncio.sleep(0)
    assert len(bench.resolver.looks) == 3
    await bench.lookups.close()
