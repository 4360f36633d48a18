"""Quantised KV caches: their arrays, batches, and the models that cannot have them."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import KVCache, QuantizedKVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import load_model

from reconciler.core.footprint import KV_BITS, KV_GROUP
from reconciler.core.records import EffectiveSettings
from reconciler.demo import DEMO_MODEL
from reconciler.worker import kv_quantization, overrides, shapes
from reconciler.worker import quantized_cache as ours
from reconciler.worker.attention import Quantized, whole
from reconciler.worker.generators import Batching
from reconciler.worker.pending import Request
from reconciler.worker.prompt_cache import PromptCache, always_rewindable
from reconciler.worker.session import Session

CONFIG = EffectiveSettings(
    4096, 64, flash_attention=True, num_experts=2, offload_kv_cache_to_gpu=overrides.on_gpu()
)
PROMPTS = [[7 + i * n % 300 for i in range(11 + 43 * n)] for n in range(1, 5)]
WIDTH = 2 * KV_GROUP


def tokens(count: int) -> tuple[mx.array, mx.array]:
    """Keys and values: 1 request, 2 heads."""
    return mx.random.normal((1, 2, count, KV_GROUP)), mx.random.normal((1, 2, count, WIDTH))


def filled(bits: int, count: int) -> ours.QuantizedKVCache:
    cache = ours.QuantizedKVCache(bits)
    cache.update_and_fetch(*tokens(count))
    return cache


def equal(one: Any, other: Any) -> bool:
    """True if the arrays of two pairs of keys and values are the same."""
    pairs = zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True)
    return all(a.shape == b.shape and mx.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("bits", KV_BITS)
def test_the_arrays_are_those_of_mlx_lm_s_quantised_cache(bits: int) -> None:
    mine, theirs = ours.QuantizedKVCache(bits), QuantizedKVCache(KV_GROUP, bits)
    for count in (300, 1, 1):
        new = tokens(count)
        assert equal(mine.update_and_fetch(*new), theirs.update_and_fetch(*new))
    mine.trim(70)
    theirs.trim(70)
    assert mine.offset == theirs.offset == 232
    new = tokens(2)
    assert equal(mine.update_and_fetch(*new), theirs.update_and_fetch(*new))
    assert mine.nbytes == theirs.nbytes


@pytest.mark.parametrize("bits", KV_BITS)
def test_requests_are_the_same_after_they_were_in_a_batch(bits: int) -> None:
    alone = [filled(bits, count) for count in (5, 9, 300)]
    kept = copy.deepcopy(alone)
    batch = alone[0].merge(alone[:2])
    assert batch.offset.tolist() == [5, 9]
    batch.extend(alone[2].merge(alone[2:]))
    for n, one in enumerate(kept):
        assert equal(batch.extract(n).keys_and_values(), one.keys_and_values())
    batch.filter(mx.array([0, 2]))
    new = [mx.random.normal((2, 2, 1, width)) for width in (KV_GROUP, WIDTH)]
    batch.update_and_fetch(*new)
    for row, n in enumerate((0, 2)):
        kept[n].update_and_fetch(*(part[row : row + 1] for part in new))
        assert equal(batch.extract(row).keys_and_values(), kept[n].keys_and_values())
        assert batch.extract(row).bits == bits


def test_a_quantised_cache_is_rewound_and_counted_like_another() -> None:
    kept = PromptCache()
    cache = [filled(8, 300)]
    assert always_rewindable(cache)
    kept.keep(list(range(300)), cache)
    # 512 tokens are allocated: a byte for a value, and 8 bytes for a group of 64.
    assert kept.nbytes == 512 * 2 * (KV_GROUP + WIDTH) * (64 + 8) // 64
    found, known = kept.find([*range(200), 999, 1])
    assert found is not None
    assert (known, found[0].offset, cache[0].offset) == (200, 200, 300)


@pytest.mark.parametrize("bits", KV_BITS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_products_with_quantised_arrays_equal_those_with_dequantised_ones(
    bits: int, dtype: Any
) -> None:
    mx.random.seed(0)
    queries = mx.random.normal((2, 4, 1, KV_GROUP)).astype(dtype)
    keys, values = (
        Quantized(
            mx.quantize(mx.random.normal((2, 2, 40, width)).astype(dtype), KV_GROUP, bits),
            KV_GROUP,
            bits,
        )
        for width in (KV_GROUP, WIDTH)
    )
    for mask in (None, "causal", mx.random.uniform(shape=(2, 1, 1, 40)) > 0.3):
        quick = whole(queries, keys, values, scale=0.125, mask=mask)
        plain = (keys.dequantized(dtype), values.dequantized(dtype))
        reference = whole(queries, *plain, scale=0.125, mask=mask)
        tolerance = 1e-5 if dtype == mx.float32 else 3e-2
        assert mx.allclose(quick, reference, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_model(DEMO_MODEL)[0]


@pytest.mark.parametrize("bits", KV_BITS)
def test_answers_with_a_quantised_cache_are_the_same_alone_in_a_batch_and_from_a_kept_prompt(
    demo: Any, bits: int
) -> None:
    session = Session(demo, replace(CONFIG, kv_cache_bits=bits))
    assert session.learn_batching() == (Batching.TOGETHER, None)
    alone = [session.generate(prompt, 8) for prompt in PROMPTS]
    session = Session(demo, replace(CONFIG, kv_cache_bits=bits))
    together: list[list[int]] = [[] for _ in PROMPTS]
    errors: list[Exception] = []
    for prompt, answer in zip(PROMPTS, together, strict=True):
        emit = lambda token, *_, answer=answer: answer.append(token)  # noqa: E731
        session.start(Request(prompt, 8, emit, errors.append))
        session.step()  # so that later prompts join a batch
    while session.busy:
        session.step()
    assert (together, errors) == (alone, [])
    assert session.generate(PROMPTS[3], 8) == alone[3]
    again = Request(PROMPTS[3], 1, lambda *_: None, errors.append)
    session.start(again)
    assert again.cached_tokens == len(PROMPTS[3]) - 1


def test_a_session_keeps_less_for_the_same_prompt(demo: Any) -> None:
    kept = {}
    for bits in (None, *KV_BITS):
        session = Session(demo, replace(CONFIG, kv_cache_bits=bits))
        session.generate(PROMPTS[3], 2)
        kept[bits] = session.kept_bytes
    assert kept[8] / kept[None] == (64 + 8) / 256  # of float32
    assert kept[4] / kept[None] == (32 + 8) / 256


@pytest.mark.parametrize("bits", [None, *KV_BITS])
@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("compute", [True, False])
def test_bits_and_attention_are_observed(
    demo: Any, bits: int | None, *, flash: bool, compute: bool
) -> None:
    config = replace(CONFIG, kv_cache_bits=bits, flash_attention=flash)
    observed, unused = Session(demo, config).observe(compute=compute)
    assert (observed, unused) == (config, ())


def test_a_session_that_ignores_the_setting_is_found_out(
    demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overrides, "make_cache", lambda model, _: make_prompt_cache(model))
    observed, _ = Session(demo, replace(CONFIG, kv_cache_bits=8)).observe()
    assert observed.kv_cache_bits is None


def after_a_call(kinds: Any) -> list[Any]:
    for one in kinds:
        one.update_and_fetch(*tokens(2))
    return list(kinds)


def test_a_model_is_refused_for_the_kind_of_its_caches(demo: Any, models: Path) -> None:
    window = after_a_call([KVCache(), RotatingKVCache(8)])
    assert kv_quantization.refusal(demo, window) == kv_quantization.WINDOW
    assert shapes.see(models / "openai/gpt-oss-20b").unquantizable_kv == kv_quantization.WINDOW
    narrow = "this model's attention heads are 16 wide, and MLX quantizes groups of 64 values"
    assert shapes.see(models / "tiny/llama").unquantizable_kv == narrow
    assert shapes.see(models / "tiny/mamba").unquantizable_kv == ""
    assert shapes.see(DEMO_MODEL).unquantizable_kv == ""
