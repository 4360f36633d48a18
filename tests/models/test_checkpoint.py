"""Facts read from a checkpoint's files alone."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.errors import LoadError, Reason
from reconciler.core.facts import Quantization
from reconciler.models.checkpoint import read_facts


@pytest.fixture
def checkpoint(models: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint that the test may damage."""
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
    # 4 layers x 2 key-value heads x 16 wide x keys and values x 4 bytes
    assert facts.kv_bytes_per_token == 4 * 2 * 16 * 2 * 4


def test_a_dense_model_has_no_experts(models: Path) -> None:
    facts = read_facts(models / "tiny/llama")
    assert (facts.experts_total, facts.experts_per_token, facts.experts_key) == (0, 0, ())


def test_weights_bytes_are_the_bytes_of_all_tensors_quantised_or_not(models: Path) -> None:
    whole = read_facts(models / "tiny/llama")
    quantised = read_facts(models / "tiny/llama-4bit")
    size = (models / "tiny/llama/model.safetensors").stat().st_size
    assert size - 4096 < whole.weights_bytes < size
    assert quantised.weights_bytes < whole.weights_bytes / 4
    assert (whole.quantization, quantised.quantization) == (None, Quantization("4bit", 4))


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


def needs_code_for_its_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    (checkpoint / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["x", null]}}'
    )


def only(checkpoint: Path, file: str) -> None:
    """Replace the weights with a file in a format that MLX does not read."""
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / file).touch()


def shard(checkpoint: Path, number: int, total: int) -> None:
    name = f"model-{number:05}-of-{total:05}.safetensors"
    (checkpoint / "model.safetensors").rename(checkpoint / name)


def index(checkpoint: Path, *files: str) -> None:
    weight_map = {f"tensor{n}": file for n, file in enumerate(files)}
    path = checkpoint / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}), "utf-8")


def broken_link(checkpoint: Path) -> None:
    (checkpoint / "model-2.safetensors").symlink_to("nowhere")


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def with_byte_order_mark(checkpoint: Path) -> None:
    path = checkpoint / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def header(checkpoint: Path, value: object) -> None:
    data = json.dumps(value).encode()
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)


def test_native_architectures_are_not_refused_for_an_auto_map(checkpoint: Path) -> None:
    configure(checkpoint, auto_map={"AutoModelForCausalLM": "modeling.py"})
    assert read_facts(checkpoint).model_type == "llama"


def test_a_checkpoint_with_all_shards_of_its_index_is_complete(checkpoint: Path) -> None:
    index(checkpoint, "model.safetensors")
    assert read_facts(checkpoint).weights_bytes > 0


def test_a_stale_index_of_a_conversion_is_harmless(checkpoint: Path) -> None:
    index(checkpoint, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert read_facts(checkpoint).weights_bytes > 0


def test_files_that_mlx_does_not_read_may_be_missing(checkpoint: Path) -> None:
    index(checkpoint, "model.safetensors", "mtp.safetensors")
    assert read_facts(checkpoint).weights_bytes > 0


def test_parameters_are_counted_quantised_or_not(models: Path) -> None:
    whole, quantised = read_facts(models / "tiny/llama"), read_facts(models / "tiny/llama-4bit")
    assert whole.parameters == whole.weights_bytes // 4
    # Quantisation packs all tensors but norms.
    assert 0.9 < quantised.parameters / whole.parameters <= 1


def test_tool_use_is_detected_from_the_chat_template(checkpoint: Path) -> None:
    for template, takes in (
        ("{{ messages }}", False),
        ("You have no tools.{{ messages }}", False),
        ("{% if tools %}{% endif %}", True),
    ):
        (checkpoint / "chat_template.jinja").write_text(template, "utf-8")
        assert read_facts(checkpoint).tool_use is takes
    (checkpoint / "chat_template.jinja").unlink()
    config = checkpoint / "tokenizer_config.json"
    for named, takes in (("", False), ("{{ tools }}", True)):
        templates = [
            {"name": "default", "template": "{{ messages }}"},
            {"name": "tool_use", "template": named},
        ]
        config.write_text(json.dumps({"chat_template": templates}), "utf-8")
        assert read_facts(checkpoint).tool_use is takes


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: (p / "config.json").write_text("{"), "config.json"),
        (lambda p: (p / "config.json").write_text("[]"), "not a JSON object"),
        (lambda p: (p / "model.safetensors").unlink(), "no model"),
        (lambda p: (p / "model.safetensors").write_bytes(b"short"), "safetensors"),
        (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 100), "too large"),
        (lambda p: configure(p, model_file="evil.py"), "evil.py"),
        (lambda p: configure(p, model_type="no_such_model"), "no architecture no_such_model"),
        (lambda p: configure(p, model_type="../base"), "no architecture"),
        (lambda p: configure(p, model_type="cache"), "no architecture cache"),
        (
            lambda p: configure(p, model_type="own", auto_map={"AutoModel": "own.py"}),
            r"own code \(auto_map\) is never run",
        ),
        (needs_code_for_its_tokenizer, "tokenizer needs its own code"),
        (lambda p: only(p, "model-Q4.gguf"), "model-Q4.gguf is GGUF"),
        (lambda p: only(p, "pytorch_model.bin"), "pytorch_model.bin is a pickle"),
        (lambda p: only(p, "consolidated.pth"), "consolidated.pth is a pickle"),
        (lambda p: shard(p, 1, 3), "incomplete: model-00002-of-00003.safetensors, model-00003"),
        (
            lambda p: index(p, "model.safetensors", "model-x.safetensors"),
            "incomplete: model-x.safetensors missing",
        ),
        (broken_link, "incomplete: model-2.safetensors is a broken link"),
        (lambda p: pipe(p / "config.json"), "not a regular file"),
        (lambda p: pipe(p / "model.safetensors"), "not a regular file"),
        (lambda p: pipe(p / "generation_config.json"), "not a regular file"),
        (lambda p: pipe(p / "tokenizer.json"), "tokenizer.json: it is not a regular file"),
        (with_byte_order_mark, "byte-order mark, which mlx_lm cannot read"),
        (lambda p: (p / "config.json").write_text("[" * 100_000), "recursion"),
        (lambda p: header(p, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}), "not a"),
        (lambda p: header(p, {"a": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}), "not a"),
        (lambda p: header(p, {"a": 1}), "not a safetensors file"),
        (lambda p: header(p, {"a": {"dtype": "F32", "shape": [1], "data_offsets": [9, 1]}}), "not"),
        (lambda p: (p / "config.json").unlink(), "config.json: cannot be read"),
    ],
)
def test_a_checkpoint_that_cannot_load_is_refused_with_the_cause(
    checkpoint: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(checkpoint)
    with pytest.raises(LoadError, match=words) as raised:
        read_facts(checkpoint)
    assert raised.value.problem.reason is Reason.INVALID_CHECKPOINT


def test_truncated_weights_are_refused_with_both_sizes(checkpoint: Path) -> None:
    shard = checkpoint / "model.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(LoadError, match=f"truncated: {len(data) - 1} bytes of {len(data)}"):
        read_facts(checkpoint)
