"""Estimated memory of a large checkpoint, and of every tiny one."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.footprint import KV_BITS
from reconciler.worker import overrides
from tests import tiny
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
    patient = ("--probe-interval", "10m")  # a step of this size takes minutes on a busy machine
    with Daemon(Home(tmp_path / "home", models), *patient) as daemon:
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


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with a llama whose KV cache can be quantised and is a large part of its memory."""
    root = tmp_path_factory.mktemp("wide")
    more = {"head_dim": 64, "num_key_value_heads": 4, "num_hidden_layers": 6}
    tiny.write(tiny.config("llama") | more, root / "models/wide/llama")
    with Daemon(Home(root / "home", root / "models")) as daemon:
        yield daemon


@pytest.mark.long
@pytest.mark.skipif(overrides.on_gpu(), reason="a GPU's memory is not what the kernel tells of")
@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("bits", [None, *KV_BITS])
def test_an_estimate_with_a_quantised_cache_is_close_to_the_measured_peak(
    wide: Daemon, bits: int | None, *, flash: bool
) -> None:
    assert miss(wide, "wide/llama", 1500, kv_cache_bits=bits, flash_attention=flash) == ""
