"""Quantised KV caches of every architecture of mlx-lm, as docs/settings.md lists them."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from reconciler.core.footprint import KV_BITS
from reconciler.core.records import EffectiveSettings
from reconciler.worker import kv_quantization, overrides, shapes
from reconciler.worker.session import Session
from tests import architectures, tiny
from tests.worker.test_architectures import PROMPTS, run

SETTINGS = Path(__file__).parents[2] / "docs/settings.md"

WIDE = {
    "head_dim": 64,
    "kv_channels": 64,
    "global_head_dim": 64,
    "v_head_dim": 64,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 64,
    "kv_lora_rank": 64,
    "index_head_dim": 64,
    "hidden_size": 256,
    "n_embd": 256,
    "d_model": 256,
    "block_dim": 256,
    "model_dim": 256,
}
"""Values in config.json that make heads, or latent keys, as wide as a group."""

NARROW = {"afm7", "plamo2"}
"""Architectures whose heads take their width from other keys."""

UNBUILT = {"bitnet", "minicpm3", "muse_spark"}
"""Not run: two need Metal, and one has no heads of these widths."""

WITHOUT_CACHE = {"deepseek_v41", "mamba", "mamba2", "rwkv7"}

REASONS = {
    "a sliding window": kv_quantization.WINDOW,
    "another kind of cache": kv_quantization.OTHER,
    "its own attention, or latent keys": kv_quantization.OWN,
}

CONFIG = EffectiveSettings(
    1024, 16, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
)

LARGEST_SHIFT = {8: 0.03, 4: 0.5}
"""Largest change of the logits, as a share of their norm."""


def wide(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with wide heads, at any depth."""
    return {
        key: wide(value) if isinstance(value, Mapping) else WIDE.get(key, value)
        for key, value in config.items()
    }


def documented() -> dict[str, str]:
    """Kind of refusal by architecture."""
    table = re.split(r"<!-- (?:kv_cache_bits|end) -->", SETTINGS.read_text("utf-8"))[1]
    rows = re.findall(r"^\| ([^|]+) \| (`.*`) \|$", table, re.MULTILINE)
    assert {kind for kind, _ in rows} == set(REASONS)
    return {name: kind for kind, names in rows for name in re.findall(r"`([\w.-]+)`", names)}


def logits(model: Any, bits: int | None) -> Any:
    """Logits after a prompt and after each of three more tokens."""
    session = Session(model, replace(CONFIG, kv_cache_bits=bits))
    cache = make_prompt_cache(session._model)
    calls = (PROMPTS[1], [5], [6], [7])
    out = [session._model(mx.array([tokens]), cache=cache)[0, -1] for tokens in calls]
    return mx.stack(out).astype(mx.float32)


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n in architectures.NAMES if n not in UNBUILT])
def test_every_architecture_is_quantised_or_refused_as_documented(
    name: str, tmp_path: Path
) -> None:
    overrides.install()
    tiny.write(wide(architectures.config(name)), tmp_path)
    if name in WITHOUT_CACHE:
        assert name == "deepseek_v41" or shapes.see(tmp_path).growing == 0
        return
    reason = shapes.see(tmp_path).unquantizable_kv
    if name in NARROW:
        assert "16 wide" in reason
        return
    expected = REASONS[documented()[name]] if name in documented() else ""
    assert reason.startswith(expected.partition("{")[0])
    assert bool(reason) == bool(expected)
    if reason:
        return
    model, _ = load_model(tmp_path)
    plain = logits(model, None)
    spread = mx.linalg.norm(plain - plain.mean(axis=-1, keepdims=True))
    for bits in KV_BITS:
        shift = float((mx.linalg.norm(logits(model, bits) - plain) / spread).item())  # type: ignore[arg-type]
        assert 0 < shift < LARGEST_SHIFT[bits]
        config = replace(CONFIG, kv_cache_bits=bits)
        batching, _ = Session(model, config).learn_batching()
        alone = [run(Session(model, config, batching=batching), [one])[0][0] for one in PROMPTS]
        used = Session(model, config, batching=batching)
        assert run(used, PROMPTS)[0] == alone
        following = [*PROMPTS[2][:66], 9, 8, 7, 6]
        used = Session(model, config, batching=batching)
        run(used, [PROMPTS[2]], (20, 66))
        answers, (request,) = run(used, [following], (20,))
        assert request.cached_tokens == 66
        fresh = Session(model, config, batching=batching)
        assert run(fresh, [following])[0] == answers
