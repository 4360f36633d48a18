"""A controller for each test."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.controller.fakes import Bench
from tests.controller.machine import World


@pytest.fixture
def budget() -> int:
    """Memory for models, in bytes."""
    return 10**9


@pytest.fixture
async def bench(tmp_path: Path, models: Path, budget: int) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "state", models, budget)
    await bench.controller.start()
    yield bench
    await bench.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()
