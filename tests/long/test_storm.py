"""Hundreds of kill -9 in a storm of changes."""

from pathlib import Path

import pytest

from tests.storm import storm
from tests.support import Home

KILLS = 105
"""Of each seed."""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_with_kills_converges_to_what_was_acknowledged(
    home: Home, tmp_path: Path, models: Path, seed: int
) -> None:
    with storm(home, tmp_path / "origin", models / "tiny/llama", seed) as running:
        running.run(KILLS)
        hit = running.cut_short()
        print(f"seed {seed}: {running.kills} kills, {running.before_ready} before the ready line,")
        print(f"in the middle of {dict(hit)}; suspected and cleared: {running.cleared}")
    assert running.before_ready > 5
    assert sum(hit.values()) >= 10
    assert len(hit) >= 3
