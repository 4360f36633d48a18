"""Adapters read from their files alone: intact, hostile and missing."""

import json
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import pytest

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.records import ModelRef
from reconciler.models.adapter import read_adapter
from reconciler.models.catalog import Catalog
from reconciler.models.places import Directory, HubCache

LORA = {"rank": 4, "scale": 20.0, "dropout": 0.0}


def write(directory: Path, **config: Any) -> Path:
    """Write an adapter of two tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    usual = {
        "fine_tune_type": "lora",
        "num_layers": 2,
        "lora_parameters": LORA,
        "model": "tiny/llama",
    }
    (directory / "adapter_config.json").write_text(json.dumps(usual | config), "utf-8")
    tensors = {"q.lora_a": mx.zeros((8, 4)), "q.lora_b": mx.zeros((4, 8))}
    mx.save_safetensors(str(directory / "adapters.safetensors"), tensors)
    return directory


def test_an_adapter_is_described_by_its_files(tmp_path: Path) -> None:
    adapter = read_adapter(write(tmp_path / "a"))
    assert (adapter.base, adapter.weights_bytes) == ("tiny/llama", 2 * 8 * 4 * 4)
    assert adapter.path == str((tmp_path / "a").resolve())
    write(tmp_path / "a", num_layers=1)
    assert read_adapter(tmp_path / "a").fingerprint != adapter.fingerprint


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"fine_tune_type": "prefix"}, "fine_tune_type must be one of lora, dora, full"),
        ({"lora_parameters": None}, "lora_parameters is missing"),
        ({"lora_parameters": None, "peft_type": "LORA"}, "it is in PEFT's format"),
        ({"lora_parameters": LORA | {"rank": 10**9}}, "rank must be from 1 to"),
        ({"lora_parameters": LORA | {"rank": 3}}, "not the rank 3"),
        ({"lora_parameters": {"rank": 4, "alpha": 16, "dropout": 0}}, "scale must be a number"),
        ({"lora_parameters": LORA | {"dropout": 1}}, "dropout must be from 0"),
        ({"lora_parameters": LORA | {"keys": [1]}}, "keys must be a list of layer names"),
        ({"num_layers": "all"}, "num_layers must be"),
        ({"num_layers": True}, "num_layers must be"),
    ],
)
def test_a_config_that_mlx_lm_would_fail_on_is_reported(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(LoadError, match=words) as raised:
        read_adapter(write(tmp_path / "a", **config))
    problem = raised.value.problem
    assert (problem.reason, problem.permanent, problem.param) == (
        Reason.INVALID_ADAPTER,
        True,
        "adapter",
    )
    assert str(tmp_path / "a") in problem.message


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        ("adapter_config.json", None, "missing"),
        ("adapter_config.json", b"[]", "is not a JSON object"),
        ("adapter_config.json", b"[" * 100_000, "cannot be read"),
        ("adapters.safetensors", None, "missing"),
        ("adapters.safetensors", b"", "not a safetensors file"),
        ("adapters.safetensors", b"\xff" * 100, "header too large"),
        ("adapters.safetensors", (2).to_bytes(8, "little") + b"{}", "contains no tensors"),
        ("adapters.safetensors", (9).to_bytes(8, "little") + b'{"a":[1]}', "not a safetensors"),
    ],
)
def test_a_broken_file_is_reported(
    tmp_path: Path, file: str, data: bytes | None, words: str
) -> None:
    path = write(tmp_path / "a") / file
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(LoadError, match=words) as raised:
        read_adapter(path.parent)
    assert str(path) in raised.value.problem.message


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "a") / "adapter_config.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(LoadError, match="not a regular file"):
        read_adapter(path.parent)


@pytest.mark.parametrize(
    "name", ["/a\0b", "/" + "a" * 300, "/" + "a" * 990, "/dev/null", "surrogate", "long", "names"]
)
def test_a_hostile_adapter_does_not_affect_others(models: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path / "surrogate", model="\ud800", num_layers=None)
    write(tmp_path / "long", model="x" * 1_000_000, num_layers=None)
    names = write(tmp_path / "names") / "adapters.safetensors"
    entry = {"dtype": "F32", "shape": [1] * 10_000, "data_offsets": [0, 0]}
    header = json.dumps({"x" * 1_000_000 + "\ud800.lora_a": entry}).encode()
    names.write_bytes(len(header).to_bytes(8, "little") + header)
    catalog = Catalog([Directory(models), Directory(tmp_path)])
    good, bad = ModelRef("tiny/llama"), ModelRef("tiny/llama", adapter=name)
    found = catalog.find_all([bad, good])
    problem = found[bad]
    assert isinstance(problem, Problem)
    assert problem.reason is Reason.INVALID_ADAPTER
    assert isinstance(found[good], Checkpoint)
    for answer in (problem, *(listed.facts for listed in catalog.listed())):
        assert len(msgspec.json.encode(answer)) < 2000


@pytest.mark.parametrize("base", ["\ud800", "x" * 1_000_000, 5, ""])
def test_an_invalid_base_name_can_be_serialized(tmp_path: Path, base: Any) -> None:
    adapter = read_adapter(write(tmp_path / "a", model=base))
    assert len(msgspec.json.encode(adapter)) < 2000


def test_a_truncated_adapter_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a") / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LoadError, match="truncated"):
        read_adapter(path.parent)


def test_an_adapter_is_found_by_identifier_and_by_path(models: Path, tmp_path: Path) -> None:
    write(tmp_path / "m" / "me" / "sql")
    hub = tmp_path / "hub" / "models--team--poems"
    write(hub / "snapshots" / "abc")
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc")
    catalog = Catalog([Directory(models), Directory(tmp_path / "m"), HubCache(tmp_path / "hub")])
    for name, path in (
        ("me/sql", tmp_path / "m/me/sql"),
        ("SQL", tmp_path / "m/me/sql"),
        (str(tmp_path / "m/me/sql"), tmp_path / "m/me/sql"),
        ("team/poems", hub / "snapshots/abc"),
    ):
        found = catalog.find(ModelRef("tiny/llama", adapter=name))
        assert found.adapter is not None
        assert found.adapter.path == str(path.resolve())
    plain = catalog.find(ModelRef("tiny/llama"))
    assert (plain.adapter, plain.files) == (None, plain.fingerprint)
    assert found.files.startswith(plain.files)
    assert found.files != plain.files


@pytest.mark.parametrize("name", ["me/none", "../m/me/sql", "./sql", "~/sql"])
def test_a_missing_adapter_is_not_found(models: Path, tmp_path: Path, name: str) -> None:
    write(tmp_path / "m" / "me" / "sql")
    catalog = Catalog([Directory(models), Directory(tmp_path / "m")])
    ref = ModelRef("tiny/llama", adapter=name)
    problem = catalog.find_all([ref])[ref]
    assert isinstance(problem, Problem)
    assert (problem.reason, problem.param) == (Reason.ADAPTER_NOT_FOUND, "adapter")
    assert f"Adapter {name}" in problem.message


def test_an_adapter_without_its_model_is_recognized(tmp_path: Path) -> None:
    write(tmp_path / "me" / "sql")
    catalog = Catalog([Directory(tmp_path)])
    with pytest.raises(LoadError, match="is a LoRA adapter for tiny/llama") as raised:
        catalog.find(ModelRef("me/sql"))
    assert "adapter: me/sql" in raised.value.problem.message
    (listed,) = catalog.listed()
    assert (listed.key, listed.facts) == ("me/sql", raised.value.problem)


def test_a_model_is_not_an_adapter(models: Path) -> None:
    ref = ModelRef("tiny/llama", adapter="tiny/qwen3")
    problem = Catalog([Directory(models)]).find_all([ref])[ref]
    assert isinstance(problem, Problem)
    assert problem.reason is Reason.INVALID_ADAPTER
    assert "adapter_config.json: missing" in problem.message
