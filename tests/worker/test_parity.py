"""Test that published checkpoints behave as in `mlx_lm.load` and `generate`.

Each trait is a small change to a tiny real checkpoint. If the worker differs on purpose, the
trait states its behaviour; docs/models.md gives the reason.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import load, stream_generate
from mlx_lm.utils import get_total_parameters, load_model, quantize_model, save_config, save_model

from reconciler.core.errors import LoadError
from reconciler.core.protocol import LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.models.checkpoint import read_facts
from reconciler.worker.model import Model
from reconciler.worker.pending import Request
from tests import counting
from tests.counting import configure

PROMPT = [10]
TOKENS = 12
CHAT = [{"role": "user", "content": "Hello"}]
REFUSED = "refused"


@dataclass(frozen=True)
class Outcome:
    """Generated tokens, the reason for the end, and the prompt of a chat."""

    tokens: list[int]
    end: str | None
    chat: list[int] | None


def by_mlx_lm(path: Path) -> Outcome | str:
    try:
        model, tokenizer = load(str(path))[:2]
    except Exception:  # noqa: BLE001  whatever it raises is a refusal
        return REFUSED
    tokens, end = [], None
    for response in stream_generate(model, tokenizer, PROMPT, max_tokens=TOKENS):
        tokens.append(response.token)
        end = response.finish_reason
    return Outcome(tokens, end, rendered(tokenizer))


def by_the_worker(path: Path) -> Outcome | str:
    try:
        facts = read_facts(path)
        model = Model()
        model.load(LoadWeights(str(path)), lambda _: None)
    except (LoadError, ValueError):
        return REFUSED
    config = EffectiveSettings(
        64, 512, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
    )
    model.open("a", OpenSession(config, facts.experts_key))
    tokens: list[int] = []
    ends: list[str | None] = []

    def emit(token: int, end: str | None, _logprobs: Any) -> None:
        tokens.append(token)
        ends.append(end)

    model.session("a").start(Request(list(PROMPT), TOKENS, emit, raises))
    while model.step():
        pass
    return Outcome(tokens, ends[-1], rendered(model.tokenizer))


def raises(error: Exception) -> None:
    raise error


def rendered(tokenizer: Any) -> list[int] | None:
    if not tokenizer.has_chat_template:
        return None
    return list(tokenizer.apply_chat_template(CHAT, add_generation_prompt=True))


@pytest.fixture(scope="module")
def base(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that counts."""
    return counting.make(models / "tiny/llama", tmp_path_factory.mktemp("counting") / "model")


@pytest.fixture
def checkpoint(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "checkpoint"))


def config(**values: object) -> Callable[[Path], None]:
    return lambda path: configure(path, **values)


def generation(**values: object) -> Callable[[Path], None]:
    return lambda path: configure(path, "generation_config.json", **values)


def all_of(*changes: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        for one in changes:
            one(path)

    return change


def without_eos_token(path: Path) -> None:
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"eos_token": None}), "utf-8")


def index(**weight_map: str) -> Callable[[Path], None]:
    return lambda path: configure(path, "model.safetensors.index.json", weight_map=weight_map)


def split(path: Path) -> list[str]:
    """Split the weights into two shards; returns the names of the second's tensors."""
    weights = counting.weights(path)
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = path / f"model-{number:05}-of-00002.safetensors"
        mx.save_safetensors(str(shard), {name: weights[name] for name in part})
    (path / "model.safetensors").unlink()
    return names[1::2]


def merged_into_the_first_shard(path: Path) -> None:
    names = counting.weights(path)
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    files = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index(**{name: files[n % 2] for n, name in enumerate(names)})(path)


def left_over_shard(path: Path) -> None:
    shutil.copy(path / "model.safetensors", path / "model-00002-of-00003.safetensors")


def missing_shard(path: Path) -> None:
    split(path)
    (path / "model-00002-of-00002.safetensors").unlink()


def unnumbered_missing_shard(path: Path) -> None:
    names = split(path)
    (path / "model-00001-of-00002.safetensors").rename(path / "model-a.safetensors")
    (path / "model-00002-of-00002.safetensors").unlink()
    index(first="model-a.safetensors", **dict.fromkeys(names, "model-b.safetensors"))(path)


def text(file: str, content: str) -> Callable[[Path], object]:
    return lambda path: (path / file).write_text(content, "utf-8")


def byte_order_mark(path: Path) -> None:
    file = path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())


def named_templates(path: Path) -> None:
    (path / "chat_template.jinja").unlink(missing_ok=True)
    templates = [
        {"name": "default", "template": "<|user|>{{ messages[0].content }}<|assistant|>"},
        {"name": "tool_use", "template": "{{ tools }}"},
    ]
    configure(path, "tokenizer_config.json", chat_template=templates)


def only_processors_template(path: Path) -> None:
    (path / "chat_template.jinja").unlink()
    configure(path, "chat_template.json", chat_template="<|user|>{{ messages[0].content }}")


def tied(path: Path) -> None:
    weights = counting.weights(path)
    del weights["lm_head.weight"]
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    configure(path, tie_word_embeddings=True)


def sparse_vocabulary(path: Path) -> None:
    """A tokenizer with a gap in its IDs."""
    file = path / "tokenizer.json"
    value = json.loads(file.read_bytes())
    vocabulary = value["model"]["vocab"]
    value["model"]["vocab"] = kept = {t: i for t, i in vocabulary.items() if not 280 <= i < 310}
    value["model"]["merges"] = [
        (a, b) for a, b in value["model"]["merges"] if {a, b, a + b} <= kept.keys()
    ]
    file.write_text(json.dumps(value), "utf-8")


TRAITS: dict[str, Callable[[Path], object]] = {
    "no end": lambda _: None,
    "an end in config.json": config(eos_token_id=15),
    "ends in config.json": config(eos_token_id=[16, 15]),
    "an end in generation_config.json": generation(eos_token_id=15),
    "ends in generation_config.json": generation(eos_token_id=[16, 15]),
    "an end in both": all_of(config(eos_token_id=20), generation(eos_token_id=[15])),
    "an end beyond the vocabulary": config(eos_token_id=[99999, 15]),
    "a broken generation_config.json": all_of(
        config(eos_token_id=15), text("generation_config.json", "{")
    ),
    "no eos_token": all_of(without_eos_token, config(eos_token_id=15)),
    "no eos_token and no end": without_eos_token,
    "a sparse vocabulary": sparse_vocabulary,
    "two shards": split,
    "a stale index": index(
        a="model-00001-of-00002.safetensors", b="model-00002-of-00002.safetensors"
    ),
    "a partial index": index(a="model.safetensors"),
    "an index that is not one": text("model.safetensors.index.json", "[]"),
    "an index of numbers": text("model.safetensors.index.json", '{"weight_map": {"a": 1}}'),
    "shards merged into the first": merged_into_the_first_shard,
    "a shard left of another set": left_over_shard,
    "a missing shard": missing_shard,
    "a missing shard without a number": unnumbered_missing_shard,
    "a byte-order mark": byte_order_mark,
    "no config.json": lambda path: (path / "config.json").unlink(),
    "named chat templates": named_templates,
    "tied weights": tied,
    "an unknown architecture": config(model_type="no_such_model"),
    "its own code": config(model_file="model.py"),
    "auto_map beside a known architecture": config(auto_map={"AutoModel": "x.y"}),
    "a tagged float": config(rope_theta={"__float__": "Infinity"}),
    "yarn": config(
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    ),
    "a quantisation that mlx_lm does not load": config(
        quantization_config={"quant_method": "compressed-tensors", "format": "float-quantized"}
    ),
}


REFUSALS = {
    "a missing shard",
    "a missing shard without a number",
    "a byte-order mark",
    "no config.json",
    "an unknown architecture",
    "its own code",
    "a quantisation that mlx_lm does not load",
}

ENDS_AT_15 = {
    "an end in config.json",
    "ends in config.json",
    "an end in generation_config.json",
    "ends in generation_config.json",
    "an end in both",
    "an end beyond the vocabulary",
    "a broken generation_config.json",
    "no eos_token",
}


@pytest.mark.parametrize("trait", TRAITS)
def test_the_worker_behaves_like_mlx_lm(checkpoint: Path, trait: str) -> None:
    TRAITS[trait](checkpoint)
    expected = by_mlx_lm(checkpoint)
    assert by_the_worker(checkpoint) == expected
    assert (expected == REFUSED) is (trait in REFUSALS)
    if isinstance(expected, Outcome) and trait in ENDS_AT_15:
        assert (expected.tokens, expected.end) == ([11, 12, 13, 14, 15], "stop")


DIFFERENCES: dict[str, tuple[Callable[[Path], object], list[int], str]] = {
    # mlx_lm lets generation_config.json override config.json.
    "ends in both files": (
        all_of(config(eos_token_id=13), generation(eos_token_id=15)),
        [11, 12, 13],
        "stop",
    ),
    # mlx_lm reads the outermost key only.
    "an end in a nested configuration": (
        config(text_config={"eos_token_id": [14]}),
        [11, 12, 13, 14],
        "stop",
    ),
}


@pytest.mark.parametrize("trait", DIFFERENCES)
def test_more_files_define_end_tokens_than_in_mlx_lm(checkpoint: Path, trait: str) -> None:
    change, tokens, end = DIFFERENCES[trait]
    change(checkpoint)
    ours, theirs = by_the_worker(checkpoint), by_mlx_lm(checkpoint)
    assert isinstance(ours, Outcome)
    assert isinstance(theirs, Outcome)
    assert (ours.tokens, ours.end) == (tokens, end)
    assert theirs.tokens[: len(tokens)] == tokens
    assert len(theirs.tokens) > len(tokens)


def test_a_template_that_only_processors_read_is_used(checkpoint: Path) -> None:
    only_processors_template(checkpoint)
    ours, theirs = by_the_worker(checkpoint), by_mlx_lm(checkpoint)
    assert isinstance(ours, Outcome)
    assert isinstance(theirs, Outcome)
    assert theirs.chat is None
    assert ours.chat


def test_a_token_that_ends_turns_in_the_template_ends_an_answer(checkpoint: Path) -> None:
    """The files name no end, and the tokenizer's eos_token is another."""
    without_eos_token(checkpoint)
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    (checkpoint / "chat_template.jinja").write_text(template, "utf-8")
    model = Model()
    model.load(LoadWeights(str(checkpoint)), lambda _: None)
    assert model.tokenizer.eos_token is None
    assert model.tokenizer.eos_token_ids == {0}
    assert model.tokenizer.convert_ids_to_tokens(0) == "<|end|>"


def test_the_vocabulary_is_the_size_of_the_models_embedding(checkpoint: Path) -> None:
    sparse_vocabulary(checkpoint)
    model = Model()
    model.load(LoadWeights(str(checkpoint)), lambda _: None)
    assert len(model.tokenizer.get_vocab()) < 310
    assert model.vocabulary == 320


# -- quantised weights ---------------------------------------------------------------------


def mixed(path: str, _module: Any) -> bool | dict[str, Any]:
    if "embed" in path or "head" in path:
        return {"group_size": 64, "bits": 6, "mode": "affine"}
    return "k_proj" not in path


MODES: dict[str, tuple[dict[str, Any], str, float]] = {
    **{
        f"affine {bits}": ({"group_size": 32, "bits": bits}, f"{bits}bit", bits)
        for bits in (2, 3, 4, 5, 6, 8)
    },
    "mxfp4": ({"group_size": 32, "bits": 4, "mode": "mxfp4"}, "mxfp4", 4),
    "nvfp4": ({"group_size": 16, "bits": 4, "mode": "nvfp4"}, "nvfp4", 4),
    "mxfp8": ({"group_size": 32, "bits": 8, "mode": "mxfp8"}, "mxfp8", 8),
    # 40,960 of 110,592 packed weights have 6 bits, the others 4.
    "mixed bits": (
        {"group_size": 32, "bits": 4, "quant_predicate": mixed},
        "4.74bit",
        4.74,
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_quantised_weights_is_loaded(models: Path, tmp_path: Path, mode: str) -> None:
    how, name, bits = MODES[mode]
    path = Path(shutil.copytree(models / "tiny/llama", tmp_path / "checkpoint"))
    model, plain = load_model(path)
    model, quantised = quantize_model(model, plain, **how)
    save_model(path, model)
    save_config(quantised, path / "config.json")
    expected = by_mlx_lm(path)
    assert isinstance(expected, Outcome)
    assert by_the_worker(path) == expected
    facts = read_facts(path)
    assert facts.quantization is not None
    assert (facts.quantization.name, facts.quantization.bits) == (name, bits)
    assert facts.parameters == get_total_parameters(model)


def test_the_bits_of_a_layer_are_inferred_if_config_has_none(models: Path, tmp_path: Path) -> None:
    """Inferred from the shapes, as in mlx_lm; the default of this file has other bits."""
    path = Path(shutil.copytree(models / "tiny/llama-4bit", tmp_path / "checkpoint"))
    configure(path, quantization={"group_size": 32, "bits": 8}, quantization_config=None)
    expected = by_mlx_lm(path)
    assert isinstance(expected, Outcome)
    assert by_the_worker(path) == expected
    facts = read_facts(path)
    assert facts.quantization is not None
    assert facts.quantization.name == "4bit"


def test_mxfp4_is_loaded_under_its_publishers_name(models: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(models / "tiny/llama", tmp_path / "checkpoint"))
    model, plain = load_model(path)
    model, _ = quantize_model(model, plain, 32, 4, "mxfp4")
    save_model(path, model)
    configure(path, quantization_config={"quant_method": "mxfp4"})
    expected = by_mlx_lm(path)
    assert isinstance(expected, Outcome)
    assert by_the_worker(path) == expected
    facts = read_facts(path)
    assert facts.quantization is not None
    assert facts.quantization.name == "mxfp4"
