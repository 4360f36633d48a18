"""Facts from a checkpoint's files alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.errors import Cause, LoadError
from reconciler.models.checkpoint import read_facts


@pytest.fixture
def checkpoint(models: Path, tmp_path: Path) -> Path:
    """A checkpoint of the test's own, to damage."""
    return Path(shutil.copytree(models / "tiny/llama", tmp_path / "checkpoint"))


def configure(checkpoint: Path, **values: object) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values), "utf-8")


def test_a_mixture_of_experts_is_described(models: Path) -> None:
    facts = read_facts(models / "openai/gpt-oss-20b")
    assert facts.model_type == "gpt_oss"
    assert (facts.experts_total, facts.experts_per_token) == (8, 4)
    assert facts.experts_key == ("num_experts_per_tok",)
    assert facts.max_context == 131072
    # 2 layers x 2 key-value heads x 16 wide x keys and values x 4 bytes
    assert facts.kv_bytes_per_token == 2 * 2 * 16 * 2 * 4


def test_a_dense_model_has_no_experts(models: Path) -> None:
    facts = read_facts(models / "tiny/llama")
    assert (facts.experts_total, facts.experts_per_token, facts.experts_key) == (0, 0, ())


def test_weights_are_the_tensors_bytes_quantised_or_not(models: Path) -> None:
    whole = read_facts(models / "tiny/llama")
    quantised = read_facts(models / "tiny/llama-4bit")
    size = (models / "tiny/llama/model.safetensors").stat().st_size
    assert size - 4096 < whole.weights_bytes < size
    assert quantised.weights_bytes < whole.weights_bytes / 4
    assert (whole.quantization_bits, quantised.quantization_bits) == (None, 4)


def test_nested_configurations_are_read(checkpoint: Path) -> None:
    nested = {"max_position_embeddings": 77, "num_experts_per_tok": 2, "num_experts": 4}
    path = checkpoint / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3_5", "text_config": nested}), "utf-8")
    facts = read_facts(checkpoint)
    assert facts.max_context == 77
    assert facts.experts_key == ("text_config", "num_experts_per_tok")


def test_the_revision_changes_with_the_files(checkpoint: Path) -> None:
    before = read_facts(checkpoint).revision
    assert read_facts(checkpoint).revision == before
    configure(checkpoint, rope_theta=1)
    assert read_facts(checkpoint).revision != before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "config.json").write_text("{"), "config.json"),
        (lambda p: (p / "config.json").write_text("[]"), "model_type"),
        (lambda p: (p / "model.safetensors").unlink(), "no model"),
        (lambda p: (p / "model.safetensors").write_bytes(b"short"), "safetensors"),
        (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 100), "too large"),
        (lambda p: configure(p, model_file="evil.py"), "evil.py"),
    ],
)
def test_what_cannot_load_is_refused_naming_the_cause(
    checkpoint: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(checkpoint)
    with pytest.raises(LoadError, match=words) as raised:
        read_facts(checkpoint)
    assert raised.value.problem.cause is Cause.INVALID_CHECKPOINT


def test_truncated_weights_are_refused_with_both_sizes(checkpoint: Path) -> None:
    shard = checkpoint / "model.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(LoadError, match=f"truncated: {len(data) - 1} bytes of {len(data)}"):
        read_facts(checkpoint)
