"""The benchmark of what a GPU's memory bandwidth allows."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import limits
from benchmarks.limits import Limit
from benchmarks.serving import PROMPT_TOKENS

WEIGHTS, KV = 1_000_000, 100


def test_the_limit_shares_weights_between_requests_and_adds_the_cache_of_each() -> None:
    limit = Limit(1e9, WEIGHTS, KV)
    cache = KV * (PROMPT_TOKENS + limits.TOKENS / 2)
    assert limit.tokens_per_second(1) == pytest.approx(1e9 / (WEIGHTS + cache))
    assert limit.tokens_per_second(8) == pytest.approx(8e9 / (WEIGHTS + 8 * cache))


async def test_without_a_gpu_there_is_no_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def alone(*words: str) -> dict[str, Any]:
        assert words == ("bandwidth",)
        return {"gpu": None}

    monkeypatch.setattr(limits, "alone", alone)
    assert await limits.run(None, tmp_path) == []  # type: ignore[arg-type]


async def test_a_written_model_generates(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    written = await limits.write(tmp_path, limits.FULL, sizes)
    generated = await limits.alone("generate", str(tmp_path / limits.FULL))
    (file,) = (tmp_path / limits.FULL).glob("*.safetensors")
    # The file also has a header. A token of the KV cache: 2 layers, 32 keys, 32 values, 2 bytes.
    assert 0 < file.stat().st_size - written["weights"] < 10_000
    assert written["kv"] == 256
    assert generated["tokens_per_second"] > 0
