"""Looks at models, for many who ask at once, and past what is slow or sick."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from reconciler.controller.clock import SystemClock
from reconciler.controller.resolver import CheckpointResolver
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Shapes
from reconciler.core.records import ModelRef
from reconciler.models.looker import NoAnswerError

HEALTHY, SICK = ModelRef("healthy"), ModelRef("sick")


def checkpoint(ref: ModelRef) -> Checkpoint:
    return Checkpoint(f"/{ref.model}", "v1", "llama", 1)


class FakeCatalog:
    """Counts looks; what it does about the sick model is the test's to say."""

    def __init__(self) -> None:
        self.looks: list[list[str]] = []
        self.sick: Callable[[], Checkpoint | Problem] = lambda: checkpoint(SICK)
        self.patient: Callable[[], Checkpoint | Problem] = lambda: checkpoint(SICK)

    def find_all(self, refs: Iterable[ModelRef]) -> dict[ModelRef, Checkpoint | Problem]:
        refs = list(refs)
        self.looks.append([ref.model for ref in refs])
        return {ref: self.sick() if ref == SICK else checkpoint(ref) for ref in refs}

    def find(self, ref: ModelRef) -> Checkpoint:
        found = self.patient() if ref == SICK else checkpoint(ref)
        if isinstance(found, Problem):
            raise LoadError(found)
        return found


class FakeBuilder:
    async def shapes(self, checkpoint: Checkpoint) -> Shapes:
        if checkpoint.path == "/sick":
            raise ZeroDivisionError
        return Shapes(1)


@pytest.fixture
def catalog() -> FakeCatalog:
    return FakeCatalog()


@pytest.fixture
def seen() -> asyncio.Event:
    """Set when something was seen that nobody waited for."""
    return asyncio.Event()


@pytest.fixture
async def resolver(catalog: FakeCatalog, seen: asyncio.Event) -> AsyncIterator[CheckpointResolver]:
    fake: Any = catalog
    resolver = CheckpointResolver(fake, FakeBuilder(), SystemClock(), seen.set)
    yield resolver
    await resolver.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Looks hang until it is set."""
    gate = threading.Event()
    yield gate
    gate.set()


async def test_a_thousand_questions_take_two_looks(
    resolver: CheckpointResolver, catalog: FakeCatalog
) -> None:
    refs = [ModelRef(f"m/{n % 10}") for n in range(1000)]
    await asyncio.gather(*(resolver.find(ref) for ref in refs))
    assert sum(map(len, catalog.looks)) == 10
    assert len(catalog.looks) <= 2


async def test_an_answer_comes_from_a_look_that_began_after_the_question(
    resolver: CheckpointResolver, catalog: FakeCatalog, gate: threading.Event
) -> None:
    begun = threading.Event()

    def slow() -> Checkpoint:
        begun.set()
        gate.wait(60)
        return checkpoint(SICK)

    catalog.sick = slow
    first = asyncio.create_task(resolver.find(SICK))
    await asyncio.to_thread(begun.wait, 60)
    second = asyncio.create_task(resolver.find(SICK))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, second)
    assert catalog.looks == [["sick"], ["sick"]]


async def test_what_is_raised_for_one_model_is_its_problem_alone(
    resolver: CheckpointResolver, catalog: FakeCatalog
) -> None:
    def fail() -> Checkpoint:
        raise MemoryError("x" * 10_000)

    catalog.sick = catalog.patient = fail
    found = await resolver.find_all([SICK, HEALTHY], 60)
    problem = found[SICK]
    assert isinstance(problem, Problem)
    assert problem.reason is Reason.INVALID_CHECKPOINT
    assert len(problem.message) < 500
    assert isinstance(found[HEALTHY], Checkpoint)
    with pytest.raises(LoadError):
        await resolver.find(SICK)
    assert (await resolver.find(HEALTHY)).shapes == Shapes(1)


async def test_looks_that_fail_for_the_same_reason_are_logged_once(
    resolver: CheckpointResolver, catalog: FakeCatalog
) -> None:
    def fail() -> Checkpoint:
        raise ZeroDivisionError

    catalog.sick = catalog.patient = fail
    with capture_logs() as lines:
        for _ in range(3):
            with pytest.raises(LoadError):
                await resolver.find(SICK)
    assert [line["event"] for line in lines] == ["lookup failed unexpectedly"]


async def test_a_healthy_model_waits_for_none_that_hangs_where_a_look_at_both_fails(
    resolver: CheckpointResolver, catalog: FakeCatalog, gate: threading.Event
) -> None:
    def fail() -> Checkpoint:
        raise ZeroDivisionError

    def hang() -> Checkpoint:
        gate.wait(60)
        return checkpoint(SICK)

    catalog.sick, catalog.patient = fail, hang
    sick = asyncio.create_task(resolver.find(SICK))
    assert (await resolver.find(HEALTHY)).path == "/healthy"
    assert (await resolver.find(ModelRef("another"))).path == "/another"
    assert catalog.looks == [["healthy", "sick"], ["another"]]
    assert not sick.done()
    gate.set()
    assert (await sick).path == "/sick"


async def test_a_model_whose_building_raises_anything_has_no_shapes(
    resolver: CheckpointResolver,
) -> None:
    assert (await resolver.find(SICK)).shapes is None


async def test_what_is_slow_is_left_out_and_there_when_it_was_seen(
    resolver: CheckpointResolver, catalog: FakeCatalog, gate: threading.Event, seen: asyncio.Event
) -> None:
    def slow() -> Checkpoint:
        gate.wait(60)
        return checkpoint(SICK)

    catalog.sick = slow
    for _ in range(3):
        assert await resolver.find_all([SICK], 0.01) == {}
    gate.set()
    found: dict[ModelRef, Checkpoint | Problem] = {}
    while not found:
        await seen.wait()
        seen.clear()
        found = await resolver.find_all([SICK], 0.01)
    assert [*found] == [SICK]
    assert catalog.looks == [["sick"]]


async def test_who_needs_what_does_not_answer_waits_longer(
    resolver: CheckpointResolver, catalog: FakeCatalog
) -> None:
    catalog.sick = lambda: NoAnswerError(Path("/sick")).problem
    assert (await resolver.find(SICK)).path == "/sick"
    found = await resolver.find_all([SICK], 60)
    assert isinstance(found[SICK], Problem)
    catalog.patient = catalog.sick
    with pytest.raises(LoadError, match="does not answer"):
        await resolver.find(SICK)


async def test_a_look_that_never_ends_has_a_deadline(
    resolver: CheckpointResolver,
    catalog: FakeCatalog,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang() -> Checkpoint:
        gate.wait(60)
        return checkpoint(SICK)

    catalog.sick = catalog.patient = hang
    monkeypatch.setattr("reconciler.controller.resolver.LOOK_SECONDS", 0.05)
    with pytest.raises(LoadError, match=r"no answer within 0\.05 s"):
        await resolver.find(SICK)
    assert (await resolver.find(HEALTHY)).path == "/healthy"
