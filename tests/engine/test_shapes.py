"""Requests for shapes, and loads that take the worker of such a request."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import LoadError, Reason
from reconciler.core.facts import Checkpoint
from reconciler.engine import sockets
from reconciler.engine.engine import Engine
from reconciler.engine.pool import Pool
from reconciler.engine.process import WorkerProcess
from reconciler.models.checkpoint import read_facts


@pytest.fixture
def checkpoint(models: Path) -> Checkpoint:
    return read_facts((models / "tiny/llama").resolve())


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    directory = sockets.prepare(tmp_path)
    engine = Engine(directory, lambda _instance, _problem: None)
    yield engine
    await engine.close()
    sockets.remove(directory)


@pytest.fixture
def before_answer(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], Awaitable[None]]]:
    """Functions that replace the responses to requests for shapes, in order; later ones succeed."""
    turns: list[Callable[[], Awaitable[None]]] = []
    ask = WorkerProcess.ask

    async def asked(self: WorkerProcess, method: str, path: str, *rest: Any) -> Any:
        if turns:
            await turns.pop(0)()
            raise TimeoutError
        return await ask(self, method, path, *rest)

    monkeypatch.setattr(WorkerProcess, "ask", asked)
    return turns


async def test_a_borrower_gets_no_worker_that_was_taken_as_it_became_ready(tmp_path: Path) -> None:
    directory = sockets.prepare(tmp_path)
    pool = Pool(directory)
    taken, borrowed = await asyncio.gather(pool.take(), pool.borrow())
    assert taken is not borrowed
    assert await pool.borrow() is borrowed
    await taken.end()
    await pool.close()
    sockets.remove(directory)


async def test_a_load_does_not_get_the_worker_that_builds_another_checkpoint(
    engine: Engine,
    checkpoint: Checkpoint,
    before_answer: list[Callable[[], Awaitable[None]]],
) -> None:
    """If that worker hung, it would be killed, and the load would fail for another checkpoint."""
    spare = await engine._pool.borrow()
    taken: list[WorkerProcess] = []

    async def take() -> None:
        taken.append(await engine._pool.take())

    before_answer.append(take)
    with pytest.raises(LoadError, match="it did not build"):
        await engine.shapes(checkpoint)
    (worker,) = taken
    assert worker is not spare
    assert (worker.alive, spare.alive) == (True, False)
    assert (await engine.shapes(checkpoint)).growing
    await worker.end()


async def test_a_spare_worker_that_hangs_on_shapes_is_killed(
    engine: Engine,
    checkpoint: Checkpoint,
    before_answer: list[Callable[[], Awaitable[None]]],
) -> None:
    worker = await engine._pool.borrow()

    async def hang() -> None:
        pass

    before_answer.append(hang)
    with pytest.raises(LoadError, match="it did not build") as raised:
        await engine.shapes(checkpoint)
    assert raised.value.problem.reason is Reason.WORKER_HUNG
    await worker.wait()
    assert (await engine.shapes(checkpoint)).growing


async def test_models_are_built_one_at_a_time_so_that_no_hang_affects_another(
    engine: Engine,
    checkpoint: Checkpoint,
    before_answer: list[Callable[[], Awaitable[None]]],
) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await goes_on.wait()

    before_answer.append(hang)
    hanging = asyncio.create_task(engine.shapes(checkpoint))
    await begun.wait()
    healthy = asyncio.create_task(engine.shapes(checkpoint))
    goes_on.set()
    with pytest.raises(LoadError, match="it did not build"):
        await hanging
    assert (await healthy).growing
