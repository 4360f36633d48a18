"""Memory that a load needs."""

from dataclasses import replace

import pytest

from reconciler.core.facts import Checkpoint, Machine, Shapes
from reconciler.core.footprint import (
    GRAPH,
    PREFILL_BATCH,
    TILE,
    TOKENIZER_FACTOR,
    batch_bytes,
    kv_bytes,
    most_tokens,
    process_bytes,
    working_bytes,
)
from reconciler.core.records import EffectiveSettings

CPU = EffectiveSettings(
    8192, 512, flash_attention=True, num_experts=0, offload_kv_cache_to_gpu=False
)
GPU = replace(CPU, offload_kv_cache_to_gpu=True)
SCORES = Shapes(0, heads=8, head_width=64, score_bytes=2)


def scores(shapes: Shapes, config: EffectiveSettings, tokens: int = 4096) -> int:
    """Rows of scores that are in memory at once."""
    working = working_bytes(shapes, config, tokens)
    keys = tokens if shapes.growing else min(tokens, config.eval_batch_size)
    return (working - config.eval_batch_size * keys) // (8 * keys * 2)


def test_kv_cache_of_every_kind() -> None:
    assert kv_bytes(Shapes(10), 1000) == 10_000
    assert kv_bytes(Shapes(10, windows=((128, 5), (4096, 1))), 1000) == 10_000 + 640 + 1000
    assert kv_bytes(Shapes(0, fixed=77), 1000) == kv_bytes(Shapes(0, fixed=77), 1) == 77


def test_a_quantised_kv_cache_has_a_scale_and_a_bias_per_group() -> None:
    bfloat16 = Shapes(128 * 10, windows=((128, 5),), fixed=77, score_bytes=2)
    assert kv_bytes(bfloat16, 1000, 8) == (64 + 4) * 10 * 1000 + 640 + 77
    assert kv_bytes(bfloat16, 1000, 4) == (32 + 4) * 10 * 1000 + 640 + 77
    assert kv_bytes(Shapes(256, score_bytes=4), 1000, 8) == (64 + 8) * 1000


def test_prefill_with_a_quantised_kv_cache_dequantises_a_layer() -> None:
    shapes = Shapes(512, largest_layer=128, score_bytes=2)
    quantized = working_bytes(shapes, replace(CPU, kv_cache_bits=8), 1000)
    # The layer grows as a quantised one, and there is a plain copy.
    assert quantized == working_bytes(shapes, CPU, 1000) + 1000 * (64 + 4)


def test_memory_of_scores_depends_on_the_attention_kernel() -> None:
    shapes = replace(SCORES, growing=1)
    assert scores(shapes, CPU) == TILE
    assert scores(shapes, replace(CPU, eval_batch_size=100)) == 100
    assert scores(shapes, replace(CPU, flash_attention=False)) == 512
    assert scores(replace(shapes, own_attention=True), CPU) == 512
    assert scores(replace(shapes, bias=True), CPU) == TILE + 512


def test_metals_fused_kernel_keeps_no_scores_for_its_head_widths() -> None:
    shapes = replace(SCORES, growing=1)
    assert scores(shapes, GPU) == 0
    assert scores(replace(shapes, head_width=256), GPU) == 512
    assert scores(shapes, replace(GPU, flash_attention=False)) == 512


def test_sliding_windows_bound_the_number_of_scored_keys() -> None:
    sliding = replace(SCORES, windows=((128, 1),))
    assert working_bytes(sliding, CPU, 4096) == working_bytes(sliding, CPU, 100_000)


def test_activations_and_growth() -> None:
    assert working_bytes(Shapes(0, hidden=10, widest=30), CPU, 4096) == 512 * (70 + 60)
    assert working_bytes(Shapes(4, largest_layer=2, grows_by=256), CPU, 1000) == 2000 + 1024


def test_a_batch_is_padded_to_its_longest_request_and_prefilled_in_parts() -> None:
    shapes = Shapes(10, hidden=1)
    working = working_bytes(shapes, CPU, 1000)
    assert batch_bytes(shapes, CPU, 0, 0) == 0
    assert batch_bytes(shapes, CPU, 2, 1000) == 2 * (10_000 + working)
    assert batch_bytes(shapes, CPU, 32, 1000) == 32 * 10_000 + PREFILL_BATCH * working


@pytest.mark.parametrize("room", [0, 9, 10, 1_000, 54_321, 10**9])
def test_the_longest_request_is_the_longest_that_fits(room: int) -> None:
    shapes = Shapes(10, heads=2, score_bytes=2, hidden=3)
    tokens = most_tokens(shapes, CPU, room, 50_000)
    assert tokens == 0 or batch_bytes(shapes, CPU, 1, tokens) <= room
    assert tokens == 50_000 or batch_bytes(shapes, CPU, 1, tokens + 1) > room


def test_process_memory_is_that_of_an_idle_worker_plus_its_tokenizer() -> None:
    checkpoint = Checkpoint("/m", "r", "llama", 100, tokenizer_bytes=1000)
    machine = Machine("cpu", "a cpu", 10**9, "0", process_bytes=5000)
    assert process_bytes(checkpoint, machine) == 5000 + GRAPH + 1000 * TOKENIZER_FACTOR
    assert process_bytes(checkpoint, replace(machine, process_bytes=0)) == 0
