"""A controller for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.controller.fakes import Bench


@pytest.fixture
def budget() -> int:
    """Bytes that models may take."""
    return 10**9


@pytest.fixture
async def bench(tmp_path: Path, models: Path, budget: int) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "state", models, budget)
    await bench.controller.start()
    yield bench
    await bench.close()
