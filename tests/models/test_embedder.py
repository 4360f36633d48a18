"""Embedding models, recognized from their files."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.embedder import Embedder
from reconciler.core.errors import LoadError
from reconciler.models.checkpoint import read_facts
from reconciler.models.contents import fingerprint
from tests import embedders, tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "embedder"
    modules = ("Dense", "Normalize")
    return embedders.make("qwen3", directory, bare=True, modules=modules, max_tokens=128)


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "embedder"))


def edit(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | keys), "utf-8")


def facts(path: Path) -> Embedder:
    found = read_facts(path).embedder
    assert found is not None
    return found


def refusal(path: Path) -> str:
    with pytest.raises(LoadError) as error:
        read_facts(path)
    return error.value.problem.message


def test_pooling_is_read_from_its_files(checkpoint: Path) -> None:
    found = facts(checkpoint)
    assert (found.pooling, found.normalized, found.dimensions) == (("lasttoken",), True, 32)
    assert (found.prompts, found.default_prompt) == (embedders.PROMPTS, None)
    assert (found.max_tokens, found.causal, found.pools_prompt) == (128, True, True)
    (dense,) = found.dense
    assert (dense.inputs, dense.outputs, dense.bias) == (64, 32, False)


def test_dense_modules_are_counted_as_weights(checkpoint: Path) -> None:
    with_dense = read_facts(checkpoint).weights_bytes
    (checkpoint / "modules.json").unlink()
    assert with_dense == read_facts(checkpoint).weights_bytes + 64 * 32 * 4


def test_a_model_without_these_files_generates(checkpoint: Path) -> None:
    assert read_facts(checkpoint).type == "embedding"
    (checkpoint / "modules.json").unlink()
    assert read_facts(checkpoint).type == "llm"


@pytest.mark.parametrize(
    ("name", "model_type", "type_"),
    [
        ("mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ", "qwen3", "embedding"),
        ("models--mlx-community--Qwen3-Embedding-8B-mxfp8/snapshots/0123", "qwen3", "embedding"),
        ("Qwen3-Embedding-0.6B", "llama", "llm"),
        ("someone/qwen3-chat", "qwen3", "llm"),
        ("Qwen3-Embedding-0.6B/chat", "qwen3", "llm"),
    ],
)
def test_a_conversion_without_the_files_is_recognized_by_family_and_architecture(
    name: str, model_type: str, type_: str, tmp_path: Path
) -> None:
    tiny.write(tiny._BASE | {"model_type": model_type}, tmp_path / name)
    found = read_facts(tmp_path / name)
    assert found.type == type_
    if found.embedder is not None:
        assert (found.embedder.pooling, found.embedder.dimensions) == (("lasttoken",), 64)
        assert set(found.embedder.prompts) == {"query", "document"}


@pytest.mark.parametrize(
    ("keys", "pooling"),
    [
        ({"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True}, ("mean",)),
        ({"pooling_mode_cls_token": True}, ("cls", "lasttoken")),
        ({"pooling_mode": "max"}, ("max",)),
        ({"pooling_mode": ["weightedmean", "mean"]}, ("mean", "weightedmean")),
    ],
)
def test_pooling_modes_are_read_from_both_forms_of_the_file(
    keys: dict[str, Any], pooling: tuple[str, ...], checkpoint: Path
) -> None:
    edit(checkpoint / "1_Pooling/config.json", **keys)
    without_dense = [module("Transformer", ""), module("Pooling", "1_Pooling")]
    (checkpoint / "modules.json").write_text(json.dumps(without_dense), "utf-8")
    found = facts(checkpoint)
    assert (found.pooling, found.dimensions) == (pooling, 64 * len(pooling))
    assert not found.normalized


def test_bidirectional_attention_is_recognized(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", use_bidirectional_attention=True)
    assert not facts(checkpoint).causal
    edit(checkpoint / "config.json", use_bidirectional_attention=False, is_causal=False)
    assert not facts(checkpoint).causal


def test_an_embedding_model_without_its_modules_is_not_a_chat_model(
    checkpoint: Path,
) -> None:
    edit(checkpoint / "config.json", use_bidirectional_attention=True)
    (checkpoint / "modules.json").unlink()
    assert "modules.json and the directories that it names are missing" in refusal(checkpoint)
    edit(checkpoint / "config.json", use_bidirectional_attention="vision")
    assert read_facts(checkpoint).type == "llm"


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder"])
def test_a_model_that_does_not_embed_text_is_not_an_embedding_model(
    kind: str, checkpoint: Path
) -> None:
    edit(checkpoint / "config_sentence_transformers.json", model_type=kind)
    assert read_facts(checkpoint).type == "llm"


@pytest.mark.parametrize(
    ("file", "keys", "words"),
    [
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": False}, "no supported pooling mode"),
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "attention is not supported"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 32}, "has hidden_size 64"),
        ("2_Dense/config.json", {"in_features": 48}, "not the 48 x 32 layer"),
        ("2_Dense/config.json", {"in_features": -1}, "in_features or out_features is missing"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.GELU"}, "GELU is not supported"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "x is not one of its"),
        ("config_sentence_transformers.json", {"prompts": {"a": 1}}, "not strings"),
        ("config_sentence_transformers.json", {"prompts": {"a": "b" * 10_001}}, "too long"),
    ],
)
def test_unsupported_settings_are_refused_naming_the_file(
    file: str, keys: dict[str, Any], words: str, checkpoint: Path
) -> None:
    edit(checkpoint / file, **keys)
    message = refusal(checkpoint)
    assert words in message
    assert Path(file).parts[0] in message


def module(kind: str, path: str) -> dict[str, str]:
    return {"name": "x", "path": path, "type": f"sentence_transformers.models.{kind}"}


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ([], "(none)"),
        ([module("Transformer", "")], "do not begin with Transformer, Pooling"),
        ([module("Transformer", ""), module("CNN", "1_CNN")], "CNN before Pooling"),
        (
            [
                module("Transformer", ""),
                module("Pooling", "1_Pooling"),
                module("LayerNorm", "2_LayerNorm"),
            ],
            "LayerNorm after Pooling is not supported",
        ),
        ([module("Transformer", ""), module("Pooling", "../1_Pooling")], "is not N_NAME"),
        ([module("Transformer", "/etc")], "is not N_NAME"),
        ([{"name": "x"}], "no type or path"),
    ],
)
def test_unsupported_modules_are_refused(modules: Any, words: str, checkpoint: Path) -> None:
    (checkpoint / "modules.json").write_text(json.dumps(modules), "utf-8")
    message = refusal(checkpoint)
    assert words in message


@pytest.mark.parametrize("text", ["{}", "[1]", "[" * 100_000, "", "\0"])
def test_an_unreadable_list_of_modules_is_a_warning(text: str, checkpoint: Path) -> None:
    """mlx_lm loads such a checkpoint as a generative model."""
    (checkpoint / "modules.json").write_text(text, "utf-8")
    found = read_facts(checkpoint)
    assert found.type == "llm"
    (warning,) = found.generation.warnings
    assert warning.key == "modules.json"
    assert "if this is an embedding model, fix the file" in warning.reason


def test_a_module_that_was_not_downloaded_is_named(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "1_Pooling")
    assert "1_Pooling/config.json: it is missing; download the model again" in refusal(checkpoint)


def test_a_pipe_in_place_of_a_dense_module_is_not_opened(checkpoint: Path) -> None:
    weights = checkpoint / "2_Dense/model.safetensors"
    weights.unlink()
    os.mkfifo(weights)
    assert "not a regular file" in refusal(checkpoint)


def test_a_changed_module_changes_the_checkpoints_revision(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    edit(checkpoint / "1_Pooling/config.json", include_prompt=False)
    assert fingerprint(checkpoint) != before


def test_an_encoder_is_refused_with_an_alternative(checkpoint: Path) -> None:
    edit(checkpoint / "config.json", model_type="bert")
    assert "mlx-lm has no architecture bert; embedding models that are decoders" in refusal(
        checkpoint
    )


def test_a_reranker_is_recognized_by_its_name_and_architecture(tmp_path: Path) -> None:
    for name, model_type, known in (
        ("Qwen/Qwen3-Reranker-0.6B", "qwen3", True),
        ("Qwen3-Reranker", "llama", False),
        ("Qwen3-0.6B", "qwen3", False),
    ):
        tiny.write(tiny._BASE | {"model_type": model_type}, tmp_path / name)
        found = read_facts(tmp_path / name)
        assert (found.reranker is not None, found.type) == (known, "llm")
