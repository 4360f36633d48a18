"""Looks at shapes, and loads that take the worker which looks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import Cause, LoadError
from reconciler.core.facts import Checkpoint
from reconciler.engine import engine as module
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
    """What happens to looks, in turn, in place of an answer in time; further ones are answered."""
    turns: list[Callable[[], Awaitable[None]]] = []
    ask = WorkerProcess.ask

    async def asked(self: WorkerProcess, method: str, path: str, *rest: Any) -> Any:
        if turns:
            await turns.pop(0)()
            raise TimeoutError
        return await ask(self, method, path, *rest)

    monkeypatch.setattr(WorkerProcess, "ask", asked)
    return turns


async def test_who_borrows_gets_no_worker_that_was_taken_as_it_got_ready(tmp_path: Path) -> None:
    directory = sockets.prepare(tmp_path)
    pool = Pool(directory)
    taken, borrowed = await asyncio.gather(pool.take(), pool.borrow())
    assert taken is not borrowed
    assert pool.lends(borrowed)
    assert not pool.lends(taken)
    await taken.end()
    await pool.close()
    sockets.remove(directory)


async def test_a_look_queued_behind_a_load_does_not_end_it(
    engine: Engine,
    checkpoint: Checkpoint,
    before_answer: list[Callable[[], Awaitable[None]]],
) -> None:
    taken: list[WorkerProcess] = []

    async def take() -> None:
        taken.append(await engine._pool.take())

    before_answer.append(take)
    shapes = await engine.shapes(checkpoint)
    assert shapes.growing
    assert taken[0].alive
    assert taken[0]._killed_for is None
    await taken[0].end()


async def test_a_look_gives_up_where_every_worker_is_taken(
    engine: Engine,
    checkpoint: Checkpoint,
    before_answer: list[Callable[[], Awaitable[None]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[WorkerProcess] = []

    async def take() -> None:
        taken.append(await engine._pool.take())

    monkeypatch.setattr(module, "SHAPES_TRIES", 2)
    before_answer += [take] * 3
    with pytest.raises(LoadError, match="each was taken to load a model") as raised:
        await engine.shapes(checkpoint)
    assert raised.value.problem.cause is Cause.ENGINE_UNAVAILABLE
    assert [worker.alive for worker in taken] == [True, True]
    for worker in taken:
        await worker.end()


async def test_a_spare_worker_that_hangs_over_shapes_is_killed(
    engine: Engine,
    checkpoint: Checkpoint,
    before_answer: list[Callable[[], Awaitable[None]]],
) -> None:
    worker = await engine._pool.borrow()

    async def hang() -> None:
        pass

    before_answer.append(hang)
    with pytest.raises(LoadError, match="it has not built") as raised:
        await engine.shapes(checkpoint)
    assert raised.value.problem.cause is Cause.WORKER_HUNG
    await worker.wait()
    assert (await engine.shapes(checkpoint)).growing
