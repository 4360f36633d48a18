"""Unfused attention, softmax(QKᵀ·scale + mask)V: in one piece, or in tiles of queries.

`mx.fast.scaled_dot_product_attention` is one fused kernel on a GPU; MLX's CPU backend has none.
Tiling keeps only one tile's scores in memory, and skips the keys that no query of the tile sees.
The result is exact, and faster on a CPU.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from reconciler.core.footprint import TILE


@dataclass(frozen=True)
class Quantized:
    """Keys or values quantised by `mx.quantize`."""

    arrays: tuple[Any, Any, Any]
    """Packed values, scales and biases, each (batch, key-value heads, S, ...)."""
    group_size: int
    bits: int

    @property
    def shape(self) -> Any:
        """Shape of the packed values; all but the width are those of the values."""
        return self.arrays[0].shape

    def dequantized(self, dtype: Any) -> Any:
        """(batch, key-value heads, S, width)."""
        return mx.dequantize(*self.arrays, group_size=self.group_size, bits=self.bits, dtype=dtype)

    def product(self, left: Any, *, transpose: bool) -> Any:
        """Multiply `left`, whose heads are grouped as in `whole`, by the values or by their
        transpose.
        """
        packed, scales, biases = (mx.expand_dims(array, 2) for array in self.arrays)
        return mx.quantized_matmul(
            left,
            packed,
            scales,
            biases,
            transpose=transpose,
            group_size=self.group_size,
            bits=self.bits,
        )


def whole(
    queries: Any, keys: Any, values: Any, *, scale: float, mask: Any = None, sinks: Any = None
) -> Any:
    """Compute attention in one piece.

    queries: (batch, heads, L, width); keys, values: (batch, key-value heads, S, width), where
    heads is a multiple of key-value heads; both may be `Quantized`. mask: None, "causal" (the last
    query sees all keys), or an array that broadcasts to (batch, heads, L, S): boolean, true if the
    query sees the key, or numbers that are added to the scores. sinks: (heads,), a score per head
    that takes part in the softmax and has no value.
    """
    heads, length = queries.shape[1:3]
    kv_heads, total = keys.shape[1:3]
    if isinstance(mask, str):  # always "causal"
        mask = mx.arange(total - length, total)[:, None] >= mx.arange(total)
    # Heads that share keys are adjacent: (batch, key-value heads, group, L, width).
    grouped = queries.reshape(queries.shape[0], kv_heads, heads // kv_heads, length, -1)
    if isinstance(keys, Quantized):
        scores = keys.product(grouped * scale, transpose=True)
    else:
        scores = (grouped * scale) @ mx.expand_dims(keys, 2).swapaxes(-1, -2)
    if mask is not None:
        mask = _grouped_mask(mask, kv_heads)
        if mask.dtype == mx.bool_:
            scores = mx.where(mask, scores, mx.finfo(scores.dtype).min)
        else:
            scores = scores + mask.astype(scores.dtype)
    share: Any = None
    if sinks is not None:  # the share of the softmax without the sinks; needs no copy of the scores
        sink = sinks.astype(mx.float32).reshape(1, kv_heads, heads // kv_heads, 1, 1)
        total_score = mx.logsumexp(scores.astype(mx.float32), axis=-1, keepdims=True)
        share = mx.sigmoid(total_score - sink).astype(scores.dtype)
        (scores,) = mx.depends([scores], [share])  # so that softmax can run in place
    weights = mx.softmax(scores, axis=-1, precise=True)
    if isinstance(values, Quantized):
        out = values.product(weights, transpose=False)
    else:
        out = weights @ mx.expand_dims(values, 2)
    if share is not None:
        out = share * out
    return out.reshape(queries.shape[0], heads, length, -1)


def tiled(
    queries: Any, keys: Any, values: Any, *, scale: float, mask: Any = None, sinks: Any = None
) -> Any:
    """Compute the same as `whole`, `TILE` queries at a time."""
    length, total = queries.shape[2], keys.shape[2]
    if length <= TILE:
        return whole(queries, keys, values, scale=scale, mask=mask, sinks=sinks)
    tiles: list[Any] = []
    for start, (first, last) in zip(
        range(0, length, TILE), _seen(mask, length, total), strict=True
    ):
        stop, part = min(start + TILE, length), mask
        if mask is not None and not isinstance(mask, str):
            part = mask[..., start:stop, :] if mask.shape[-2] > 1 else mask
            part = part[..., first:last] if mask.shape[-1] > 1 else part
        tile = queries[:, :, start:stop]
        if tiles:  # in sequence; otherwise MLX holds the scores of all tiles in memory at once
            (tile,) = mx.depends([tile], [tiles[-1]])
        tiles.append(
            whole(
                tile,
                keys[:, :, first:last],
                values[:, :, first:last],
                scale=scale,
                mask=part,
                sinks=sinks,
            )
        )
    return mx.concatenate(tiles, axis=2)


def _seen(mask: Any, length: int, total: int) -> list[tuple[int, int]]:
    """Range of keys that each tile's queries see: the first key, and one past the last."""
    starts = range(0, length, TILE)
    if isinstance(mask, str):
        return [(0, total - length + min(start + TILE, length)) for start in starts]
    if mask is None or mask.dtype != mx.bool_ or mask.shape[-2:] != (length, total):
        return [(0, total)] * len(starts)
    return [_span(mask[..., start : start + TILE, :]) for start in starts]


def _span(mask: Any) -> tuple[int, int]:
    """Range of keys that a mask (..., L, S) lets through: the first key, and one past the last."""
    through = mx.any(mask.reshape(-1, mask.shape[-1]), axis=0)
    hidden: Any = mx.argmax(through[::-1]).item()
    first: Any = mx.argmax(through).item()
    return first, mask.shape[-1] - hidden


def _grouped_mask(mask: Any, kv_heads: int) -> Any:
    """Reshape a mask of 2 to 4 dimensions for scores whose heads are grouped by key-value head."""
    while mask.ndim < 4:
        mask = mask[None]
    batch, heads, length, total = mask.shape
    if heads == 1:
        return mask[:, :, None]
    return mask.reshape(batch, kv_heads, heads // kv_heads, length, total)
