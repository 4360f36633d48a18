"""Start of workers by the pool."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reconciler.engine import pool as module
from reconciler.engine.pool import Pool
from reconciler.engine.process import WorkerProcess


class FakeWorker:
    """A worker that is ready at once and runs until it is ended."""

    alive = True

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def ready(self) -> None:
        """Return at once."""

    async def wait(self) -> None:
        await self.ended.wait()

    async def end(self) -> None:
        self.alive = False
        self.ended.set()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> "asyncio.Queue[FakeWorker]":
    """Started workers, in order."""
    workers: asyncio.Queue[FakeWorker] = asyncio.Queue()

    async def start(*_: Any) -> FakeWorker:
        worker = FakeWorker()
        workers.put_nowait(worker)
        return worker

    monkeypatch.setattr(WorkerProcess, "start", start)
    monkeypatch.setattr(module, "WARM_AFTER_SECONDS", 0.0)
    return workers


async def test_a_spare_worker_is_started_after_one_is_taken_or_dies(
    started: "asyncio.Queue[FakeWorker]",
) -> None:
    pool = Pool(Path())
    taken: Any = await pool.take()
    pool.warm()
    assert await started.get() is taken
    spare = await started.get()
    await spare.end()
    assert (await started.get()).alive
    await pool.close()


async def test_without_a_spare_a_worker_is_started_on_demand(
    started: "asyncio.Queue[FakeWorker]",
) -> None:
    pool = Pool(Path(), spare=False)
    borrowed: Any = await pool.borrow()
    assert await pool.take() is borrowed
    pool.warm()
    assert pool._timer is None
    assert started.qsize() == 1
    assert await pool.take() is not borrowed
    assert started.qsize() == 2
    await pool.close()
