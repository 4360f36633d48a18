"""Compare full and tiled attention with MLX's own function as the reference."""

import itertools
from typing import Any

import mlx.core as mx
import pytest

from reconciler.core.footprint import TILE
from reconciler.worker import attention, overrides
from tests import mlx_memory

TOLERANCE = {mx.float32: 2e-5, mx.bfloat16: 2e-2, mx.float16: 4e-3}


def lengths(tile: int) -> list[tuple[int, int]]:
    """Numbers of queries and keys: decoding, prefill, the same after a prefix, two tiles."""
    return [(1, 1), (1, 40), (7, 7), (5, 40), (tile + 4, tile + 4), (tile + 1, tile + 44)]


def masks(batch: int, heads: int, length: int, total: int, dtype: Any) -> dict[str, Any]:
    """A mask of every form, each of which leaves every query at least one key."""
    seen = mx.random.uniform(shape=(batch, heads, length, total)) > 0.3
    seen = mx.logical_or(seen, mx.arange(total) == 0)
    added = mx.random.normal((batch, heads, length, total)).astype(dtype)
    past = mx.arange(total - length, total)[:, None] - mx.arange(total)
    return {
        "none": None,
        "causal": "causal",
        "causal as an array": past >= 0,
        "window": mx.logical_and(past >= 0, past < 4),
        "bool 2": seen[0, 0],
        "bool 3": seen[0, :1],
        "bool 4": seen,
        "bool 4, heads alike": seen[:, :1],
        "bool 4, queries alike": seen[:, :1, :1],
        "added 2": added[0, 0],
        "added 4": added,
        "added 4, heads alike": added[:, :1],
    }


@pytest.mark.parametrize(
    ("dtype", "heads", "kv_heads"),
    [
        (mx.float32, 4, 2),
        pytest.param(mx.float32, 4, 4, marks=pytest.mark.long),
        pytest.param(mx.float32, 4, 1, marks=pytest.mark.long),
        pytest.param(mx.bfloat16, 4, 2, marks=pytest.mark.long),
        pytest.param(mx.float16, 4, 2, marks=pytest.mark.long),
    ],
    ids=str,
)
@pytest.mark.parametrize("tile", [16, pytest.param(TILE, marks=pytest.mark.long)])
def test_full_and_tiled_attention_agree_with_mlx(
    monkeypatch: pytest.MonkeyPatch, dtype: Any, heads: int, kv_heads: int, tile: int
) -> None:
    monkeypatch.setattr(attention, "TILE", tile)
    mx.random.seed(0)
    for (length, total), sunk in itertools.product(lengths(tile), (False, True)):
        q = mx.random.normal((2, heads, length, 8)).astype(dtype)
        k = mx.random.normal((2, kv_heads, total, 8)).astype(dtype)
        v = mx.random.normal((2, kv_heads, total, 8)).astype(dtype)
        sinks = mx.random.normal((heads,)).astype(dtype) if sunk else None
        for name, mask in masks(2, heads, length, total, dtype).items():
            options = {"scale": 0.25, "mask": mask, "sinks": sinks}
            expected = mx.fast.scaled_dot_product_attention(q, k, v, **options)
            for way in (attention.whole, attention.tiled):
                got = way(q, k, v, **options)
                assert got.shape == expected.shape
                assert got.dtype == dtype
                difference = float(mx.abs(got - expected).max())
                assert difference < TOLERANCE[dtype], (name, length, total, sunk, way)


@pytest.mark.skipif(overrides.on_gpu(), reason="a GPU has a kernel of its own")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_mlx_computes_attention_of_one_query_as_ours_bit_by_bit(dtype: Any) -> None:
    mx.random.seed(0)
    for kv_heads, total in itertools.product((1, 2, 4), (1, 40, 300)):
        q = mx.random.normal((3, 4, 1, 8)).astype(dtype)
        k = mx.random.normal((3, kv_heads, total, 8)).astype(dtype)
        v = mx.random.normal((3, kv_heads, total, 8)).astype(dtype)
        for name, mask in masks(3, 4, 1, total, dtype).items():
            ours = attention.whole(q, k, v, scale=0.25, mask=mask)
            theirs = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask=mask)
            assert mx.array_equal(ours, theirs).item(), (name, kv_heads, total)


def test_a_fully_masked_query_does_not_give_nan() -> None:
    q = mx.random.normal((1, 2, 3, 8))
    mask = mx.zeros((3, 3), dtype=mx.bool_)
    for way in (attention.whole, attention.tiled):
        assert not mx.isnan(way(q, q, q, scale=1.0, mask=mask)).any().item()


def test_keys_masked_for_a_whole_tile_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    whole = attention.whole

    def counting(q: Any, k: Any, v: Any, **options: Any) -> Any:
        sizes.append(k.shape[2])
        return whole(q, k, v, **options)

    monkeypatch.setattr(attention, "whole", counting)
    q, tile = mx.random.normal((1, 2, 3 * TILE, 8)), TILE
    past = mx.arange(3 * tile)[:, None] - mx.arange(3 * tile)
    for mask, expected in (
        ("causal", [tile, 2 * tile, 3 * tile]),
        (past >= 0, [tile, 2 * tile, 3 * tile]),
        (mx.logical_and(past >= 0, past < 4), [tile, tile + 3, tile + 3]),
        (None, [3 * tile] * 3),
    ):
        sizes.clear()
        attention.tiled(q, q, q, scale=0.25, mask=mask)
        assert sizes == expected


def test_tiles_never_hold_all_scores_at_once() -> None:
    q = mx.random.normal((1, 4, 1024, 16))
    mx.eval(q)

    def peak(way: Any) -> int:
        return mlx_memory.peak(lambda: mx.eval(way(q, q, q, scale=0.25, mask="causal")))

    whole, tiled = peak(attention.whole), peak(attention.tiled)
    assert tiled < whole / 2
