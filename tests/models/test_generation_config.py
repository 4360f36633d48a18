"""Published and invalid generation_config.json files."""

import json
import os
from pathlib import Path

import pytest

from reconciler.core.defaults import Defaults
from reconciler.core.facts import GenerationConfig
from reconciler.models.checkpoint import read_facts
from reconciler.models.generation_config import MAX_BYTES, read

QWEN3 = {
    "bos_token_id": 151643,
    "do_sample": True,
    "eos_token_id": [151645, 151643],
    "pad_token_id": 151643,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
    "transformers_version": "4.51.0",
}
"""The file of Qwen/Qwen3-8B."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "generation_config.json"


def test_a_published_file_sets_the_sampling_defaults(file: Path) -> None:
    file.write_text(json.dumps(QWEN3))
    assert read(file) == GenerationConfig(Defaults(temperature=0.6, top_p=0.95, top_k=20))


def test_keys_are_renamed_to_those_of_requests(file: Path) -> None:
    config = {"max_new_tokens": 2048, "repetition_penalty": 1.05, "min_p": 0, "top_p": None}
    file.write_text(json.dumps(config))
    expected = Defaults(max_tokens=2048, repetition_penalty=1.05, min_p=0.0)
    assert read(file) == GenerationConfig(expected)


@pytest.mark.parametrize(
    ("config", "temperature"),
    [
        ({"do_sample": False, "temperature": 0.9}, 0.0),
        ({"do_sample": False}, 0.0),
        ({"do_sample": True, "temperature": 0.9}, 0.9),
        ({"temperature": 0.9}, 0.9),
        ({"do_sample": None}, None),
    ],
)
def test_disabled_sampling_is_temperature_zero(
    file: Path, config: dict[str, object], temperature: float | None
) -> None:
    file.write_text(json.dumps(config))
    assert read(file).defaults.temperature == temperature


@pytest.mark.parametrize(
    "config",
    [
        {"temperature": 99},
        {"temperature": "hot"},
        {"top_p": -1},
        {"top_k": 1.5},
        {"repetition_penalty": [1]},
        {"max_new_tokens": 10**40},
        {"min_p": True},
    ],
)
def test_a_value_out_of_bounds_is_ignored_and_reported(
    file: Path, config: dict[str, object]
) -> None:
    file.write_text(json.dumps({"top_k": 7} | config))
    found = read(file)
    (key,) = config
    assert [w.key for w in found.warnings] == [f"generation_config.{key}"]
    assert "ignored" in found.warnings[0].reason
    assert found.defaults == (Defaults() if key == "top_k" else Defaults(top_k=7))


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"temperature": NaN}', b" " * (MAX_BYTES + 1)],
)
def test_a_broken_file_is_ignored_with_a_warning(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    found = read(file)
    assert found.defaults == Defaults()
    assert len(found.warnings) == 1


def test_without_the_file_nothing_is_set(file: Path) -> None:
    assert read(file) == GenerationConfig()
    file.mkdir()
    assert read(file) == GenerationConfig()


def test_only_regular_files_are_opened(file: Path) -> None:
    os.mkfifo(file)
    assert read(file) == GenerationConfig()


def test_it_is_part_of_the_checkpoints_facts(models: Path) -> None:
    assert read_facts(models / "tiny/llama").generation == GenerationConfig()
