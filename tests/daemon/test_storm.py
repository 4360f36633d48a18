"""A few `kill -9` during a storm of changes, without spare workers; tests/long has hundreds."""

from pathlib import Path

import pytest

from tests.storm import storm
from tests.support import Home

KILLS = 4


@pytest.mark.long
def test_a_few_kills_in_a_storm_lose_nothing(home: Home, tmp_path: Path, models: Path) -> None:
    with storm(home, tmp_path / "origin", models / "tiny/llama", seed=5) as running:
        running.run(KILLS)
