"""Lookups of models: shared by concurrent callers, and not blocked by slow or broken models."""

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
    """A catalogue that records lookups; the test sets the result for the sick model."""

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
    """Event set when a lookup ends without a waiting caller."""
    return asyncio.Event()


@pytest.fixture
async def resolver(catalog: FakeCatalog, seen: asyncio.Event) -> AsyncIterator[CheckpointResolver]:
    fake: Any = catalog
    resolver = CheckpointResolver(fake, FakeBuilder(), SystemClock(), seen.set)
    yield resolver
    await resolver.close()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Event that ends hanging lookups."""
    gate = threading.Event()
    yield gate
    gate.set()


async def test_a_thousand_queries_take_two_lookups(
    resolver: CheckpointResolver, catalog: FakeCatalog
) -> None:
    refs = [ModelRef(f"m/{n % 10}") for n in range(1000)]
    await asyncio.gather(*(resolver.find(ref) for ref in refs))
    assert sum(map(len, catalog.looks)) == 10
    assert len(catalog.looks) <= 2


async def test_a_result_comes_from_a_lookup_that_began_after_the_query(
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


async def test_an_exception_for_one_model_affects_no_other(
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


async def test_lookups_that_fail_for_the_same_reason_are_logged_once(
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


async def test_a_healthy_model_does_not_wait_for_a_hanging_one_after_a_shared_lookup_fails(
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


async def test_a_model_that_cannot_be_built_has_no_shapes(
    resolver: CheckpointResolver,
) -> None:
    assert (await resolver.find(SICK)).shapes is None


async def test_a_slow_model_is_omitted_until_its_lookup_ends(
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


async def test_a_caller_that_needs_an_unresponsive_model_waits_longer(
    resolver: CheckpointResolver, catalog: FakeCatalog
) -> None:
    catalog.sick = lambda: NoAnswerError(Path("/sick")).problem
    assert (await resolver.find(SICK)).path == "/sick"
    found = await resolver.find_all([SICK], 60)
    assert isinstance(found[SICK], Problem)
    catalog.patient = catalog.sick
    with pytest.raises(LoadError, match="does not answer"):
        await resolver.find(SICK)


async def test_a_lookup_that_never_ends_has_a_deadline(
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


@pytest.mark.parametrize("forgotten", [True, False])
async def test_a_late_result_is_not_used_once_the_files_changed_or_were_looked_up_anew(
    resolver: CheckpointResolver,
    catalog: FakeCatalog,
    gate: threading.Event,
    seen: asyncio.Event,
    *,
    forgotten: bool,
) -> None:
    gone = Problem(Reason.MODEL_NOT_FOUND, "it is removed", permanent=False)

    def slow() -> Checkpoint:
        gate.wait(60)
        return checkpoint(SICK)

    def absent() -> Checkpoint:
        raise LoadError(gone)

    catalog.sick = slow
    assert await resolver.find_all([SICK], 0) == {}
    gate.set()
    await seen.wait()
    catalog.sick = catalog.patient = absent
    if forgotten:
        resolver.forget(SICK)
    else:
        await resolver.find_all([SICK])
    assert isinstance((await resolver.find_all([SICK], 60))[SICK], Problem)
