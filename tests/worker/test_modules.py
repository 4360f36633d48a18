"""Test adapters over shared weights against mlx_lm's own load, on real MLX in this process."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm import stream_generate
from mlx_lm.utils import load as load_with_mlx_lm

from reconciler.core.protocol import LoadWeights, OpenSession
from reconciler.core.records import EffectiveSettings
from reconciler.models.adapter import read_adapter
from reconciler.models.checkpoint import read_facts
from reconciler.worker import backend
from reconciler.worker.model import Model
from reconciler.worker.modules import AdapterError
from tests import adapters, mlx_memory

PROMPT = [5, 6, 7, 8, 9]
LENGTH = 12


def loaded(path: Path) -> Model:
    model = Model()
    model.load(LoadWeights(str(path)), lambda _: None)
    return model


def command(path: Path, adapter: Path | None = None, experts: int | None = None) -> OpenSession:
    facts, gpu = read_facts(path), backend.machine().has_gpu
    number = facts.experts_per_token if experts is None else experts
    config = EffectiveSettings(
        64, 16, flash_attention=gpu, num_experts=number, offload_kv_cache_to_gpu=gpu
    )
    found = read_adapter(adapter) if adapter is not None else None
    return OpenSession(config, facts.experts_key, adapter=found)


def generated(model: Model, name: str) -> list[int]:
    return model.session(name).generate(PROMPT, LENGTH)


def expected(path: Path, adapter: Path | None = None) -> list[int]:
    network, tokenizer = load_with_mlx_lm(
        str(path), adapter_path=str(adapter) if adapter is not None else None
    )
    return [r.token for r in stream_generate(network, tokenizer, PROMPT, max_tokens=LENGTH)]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("tiny/llama", "lora"),
        ("tiny/llama", "dora"),
        ("tiny/llama", "full"),
        ("tiny/llama-4bit", "lora"),
        ("tiny/qwen3_moe", "lora"),
        ("tiny/deepseek_v3", "lora"),
    ],
)
def test_an_adapter_generates_the_same_tokens_as_in_mlx_lm(
    models: Path, tmp_path: Path, key: str, kind: str
) -> None:
    path = models / key
    adapter = adapters.make(path, tmp_path / "a", seed=1, kind=kind)
    model = loaded(path)
    model.open("plain", command(path))
    model.open("tuned", command(path, adapter))
    assert generated(model, "tuned") == expected(path, adapter)
    assert generated(model, "plain") == expected(path)
    assert generated(model, "tuned") != generated(model, "plain")


def test_two_adapters_and_the_model_hold_the_weights_once(models: Path, tmp_path: Path) -> None:
    path = models / "tiny/llama"
    one = adapters.make(path, tmp_path / "one", seed=1)
    two = adapters.make(path, tmp_path / "two", seed=2, layers=1)
    model = loaded(path)
    before = mlx_memory.active()
    for name, adapter in (("plain", None), ("one", one), ("two", two)):
        model.open(name, command(path, adapter))
    added = mlx_memory.active() - before
    own = sum(read_adapter(adapter).weights_bytes for adapter in (one, two))
    assert own <= added < own + read_facts(path).weights_bytes / 4
    tokens = [generated(model, name) for name in ("plain", "one", "two")]
    assert tokens == [expected(path), expected(path, one), expected(path, two)]
    assert len(set(map(tuple, tokens))) == 3
    for name in ("one", "two"):
        model.close(name)
    assert mlx_memory.active() - before < own / 2
    assert generated(model, "plain") == tokens[0]


def test_an_adapter_applies_to_another_number_of_experts(models: Path, tmp_path: Path) -> None:
    path = models / "tiny/qwen3_moe"
    adapter = adapters.make(path, tmp_path / "a", seed=3)
    model = loaded(path)
    opened = model.open("few", command(path, adapter, experts=1))
    assert opened.observed.num_experts == 1
    other = model.open("own", command(path, adapter))
    assert other.observed.num_experts == 2
    assert generated(model, "own") == expected(path, adapter)


def test_an_adapter_of_another_model_is_refused_in_one_line(models: Path, tmp_path: Path) -> None:
    path = models / "tiny/llama"
    strange = adapters.make(models / "tiny/qwen3_moe", tmp_path / "strange", seed=1)
    model = loaded(path)
    model.open("plain", command(path))
    before = generated(model, "plain")
    with pytest.raises(
        AdapterError, match=r"adapters\.safetensors does not fit this model"
    ) as raised:
        model.open("tuned", command(path, strange))
    assert "\n" not in str(raised.value)
    assert "trained on" in str(raised.value)
    assert generated(model, "plain") == before


def test_a_config_whose_layers_the_file_lacks_takes_no_memory(models: Path, tmp_path: Path) -> None:
    path = models / "tiny/llama"
    adapter = adapters.make(path, tmp_path / "a", seed=1, kind="dora")
    file = adapter / "adapters.safetensors"
    stored: Any = mx.load(str(file))
    weights = {name: array for name, array in stored.items() if name.endswith("q_proj.m")}
    mx.save_safetensors(str(file), weights)
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    config["lora_parameters"]["rank"] = 60_000
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    model = loaded(path)
    before = mlx_memory.active()
    with pytest.raises(AdapterError, match="most of which the file lacks"):
        model.open("tuned", command(path, adapter))
    assert mlx_memory.active() - before < 1_000_000


def test_an_adapter_that_changed_on_disk_is_read_again(models: Path, tmp_path: Path) -> None:
    path = models / "tiny/llama"
    adapter = adapters.make(path, tmp_path / "a", seed=1)
    model = loaded(path)
    first = command(path, adapter)
    model.open("first", first)
    before = generated(model, "first")
    shutil.rmtree(adapter)
    adapters.make(path, adapter, seed=9)
    again = command(path, adapter)
    assert again.adapter != first.adapter
    model.open("again", again)
    assert generated(model, "again") == expected(path, adapter) != before
    assert generated(model, "first") == before


def test_the_loaded_model_is_not_modified(models: Path, tmp_path: Path) -> None:
    path = models / "tiny/llama"
    adapter = adapters.make(path, tmp_path / "a", seed=1, kind="full")
    model = loaded(path)
    assert model._modules is not None
    base = model._modules.get(command(path))
    before = dict(tree_flatten(base.parameters()))
    model.open("tuned", command(path, adapter))
    after = dict(tree_flatten(base.parameters()))
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert replace(command(path, adapter), adapter=None) == command(path)
