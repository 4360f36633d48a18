"""Hundreds of `kill -9` during a storm of changes."""

from pathlib import Path

import pytest

from tests.storm import Storm, storm
from tests.support import Home

KILLS = 105
"""Kills for each seed; up to twice as many until they have hit their targets."""

SPARE = ("--spare-workers", "1")
"""Spare workers, as users have them; the short storm runs without."""


def hits_enough(running: Storm) -> bool:
    """True if kills hit startups and actions of several kinds while they ran."""
    hit = running.cut_short()
    return running.before_ready > 5 and sum(hit.values()) >= 10 and len(hit) >= 3


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_with_kills_converges_to_what_was_acknowledged(
    home: Home, tmp_path: Path, models: Path, seed: int
) -> None:
    with storm(home, tmp_path / "origin", models / "tiny/llama", seed, *SPARE) as running:
        running.run(KILLS)
        while not hits_enough(running) and running.kills < 2 * KILLS:
            running.run(running.kills + 5)
        print(f"seed {seed}: {running.kills} kills, {running.before_ready} before the ready line,")
        print(f"in the middle of {dict(running.cut_short())}; cleared: {running.cleared}")
        assert hits_enough(running)
