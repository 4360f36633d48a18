"""Test reports of the number of experts if config.json alone does not determine it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.protocol import LoadWeights, OpenSession, SessionOpened
from reconciler.core.records import EffectiveSettings
from reconciler.models.checkpoint import read_facts
from reconciler.worker.model import Model
from tests.tiny import write

BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "num_experts_per_tok": 2,
}
QWEN = BASE | {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
}
HUNYUAN = BASE | {
    "model_type": "hunyuan",
    "num_experts": 4,
    "num_shared_expert": 1,
    "use_mixed_mlp_moe": False,
    "use_qk_norm": True,
    "attention_bias": False,
    "use_cla": False,
    "cla_share_factor": 1,
    "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
}
DBRX = {
    "model_type": "dbrx",
    "vocab_size": 320,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 2,
    "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    "attn_config": {"kv_n_heads": 1, "clip_qkv": 8.0, "rope_theta": 10000},
}


def opened(path: Path, config: dict[str, Any], *without: str, asked: int = 0) -> SessionOpened:
    """Open a session as the engine does, with the keys in `without` removed from config.json."""
    write(config, path)
    kept = {key: value for key, value in config.items() if key not in without}
    (path / "config.json").write_text(json.dumps(kept), "utf-8")
    facts = read_facts(path)
    model = Model()
    model.load(LoadWeights(str(path)), lambda _: None)
    settings = EffectiveSettings(64, 16, True, facts.experts_per_token, False)
    if not asked:
        return model.open("a", OpenSession(settings))
    return model.open("a", OpenSession(replace(settings, num_experts=asked), facts.experts_key))


def test_a_number_per_layer_is_reported_with_a_warning(tmp_path: Path) -> None:
    session = opened(tmp_path, HUNYUAN | {"moe_topk": [1, 3]})
    assert session.observed.num_experts == 3
    (warning,) = session.warnings
    assert (warning.key, warning.asked) == ("num_experts", None)
    assert "different numbers of experts: 1, 3" in warning.reason


def test_a_dense_variant_that_keeps_the_keys_reports_no_experts(tmp_path: Path) -> None:
    session = opened(tmp_path, QWEN | {"mlp_only_layers": [0, 1]})
    assert session.observed.num_experts == 0
    (warning,) = session.warnings
    assert "no layer of the model routes to experts" in warning.reason


def test_the_default_of_an_architecture_is_known_and_can_be_overridden(tmp_path: Path) -> None:
    config = BASE | {"model_type": "mixtral", "num_local_experts": 4}
    session = opened(tmp_path / "own", config, "num_experts_per_tok")
    assert (session.observed.num_experts, session.warnings) == (2, ())
    asked = opened(tmp_path / "asked", config, "num_experts_per_tok", asked=3)
    assert (asked.observed.num_experts, asked.warnings) == (3, ())


@pytest.mark.parametrize("asked", [0, 3])
def test_experts_that_are_called_one_by_one_are_counted(tmp_path: Path, asked: int) -> None:
    session = opened(tmp_path, DBRX, asked=asked)
    assert (session.observed.num_experts, session.warnings) == (asked or 2, ())
