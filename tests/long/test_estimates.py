"""Estimated memory of a large checkpoint, and of every tiny one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CHECKPOINTS
from tests.daemon.test_estimates import miss
from tests.support import Daemon, Home

LARGE = """\
import sys
from pathlib import Path
from benchmarks.checkpoints import large
large(Path(sys.argv[1]), layers=4, hidden=1024, intermediate=4096, vocabulary=100000)
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_estimate_of_a_checkpoint_above_1_gb_is_close_to_the_measured_peak(
    tmp_path: Path,
) -> None:
    models = tmp_path / "models"
    target = models / "big/llama"
    subprocess.run([sys.executable, "-c", LARGE, str(target)], check=True)
    assert sum(file.stat().st_size for file in target.glob("*.safetensors")) > 10**9
    with Daemon(Home(tmp_path / "home", models)) as daemon:
        assert miss(daemon, "big/llama", 400) == ""


@pytest.mark.long
@pytest.mark.parametrize("context", [4096, 8192])
@pytest.mark.parametrize("model", CHECKPOINTS)
def test_an_estimate_of_every_architecture_is_close_to_the_measured_peak(
    shared: Daemon, model: str, context: int
) -> None:
    assert miss(shared, model, context) == ""


@pytest.mark.long
def test_an_estimate_with_full_attention_and_small_steps_is_close_to_the_measured_peak(
    shared: Daemon,
) -> None:
    model = "openai/gpt-oss-20b"
    assert miss(shared, model, 4096, flash_attention=False) == ""
    assert miss(shared, model, 4096, eval_batch_size=64) == ""
