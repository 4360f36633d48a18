"""softmax(QKᵀ·scale + mask)V as written, whole or in tiles of queries.

`mx.fast.scaled_dot_product_attention` is one fused kernel on a GPU; MLX's CPU backend has none.
In tiles the scores of a long prompt are never in memory all at once, and keys that no query of a
tile sees are left out: exact, and on a CPU quicker. Whole is what attention without fusion is.
"""

from typing import Any

import mlx.core as mx

from reconciler.core.footprint import TILE


def whole(
    queries: Any, keys: Any, values: Any, *, scale: float, mask: Any = None, sinks: Any = None
) -> Any:
    """Attention in one piece.

    queries: (batch, heads, L, width); keys, values: (batch, key-value heads, S, width), where
    heads is a multiple of key-value heads. mask: None, "causal" (the last query sees all keys),
    or an array that broadcasts to (batch, heads, L, S), true where a key is seen, or added to the
    scores. sinks: (heads,), a score per head that takes its share of the softmax and has no value.
    """
    heads, length = queries.shape[1:3]
    kv_heads, total = keys.shape[1:3]
    if isinstance(mask, str):  # "causal", the only word there is
        mask = mx.arange(total - length, total)[:, None] >= mx.arange(total)
    # Heads that share keys lie next to each other: (batch, key-value heads, group, L, width).
    grouped = queries.reshape(queries.shape[0], kv_heads, heads // kv_heads, length, -1)
    scores = (grouped * scale) @ mx.expand_dims(keys, 2).swapaxes(-1, -2)
    if mask is not None:
        mask = _grouped_mask(mask, kv_heads)
        if mask.dtype == mx.bool_:
            scores = mx.where(mask, scores, mx.finfo(scores.dtype).min)
        else:
            scores = scores + mask.astype(scores.dtype)
    share: Any = None
    if sinks is not None:  # what they leave of the softmax, without a copy of the scores
        sink = sinks.astype(mx.float32).reshape(1, kv_heads, heads // kv_heads, 1, 1)
        total_score = mx.logsumexp(scores.astype(mx.float32), axis=-1, keepdims=True)
        share = mx.sigmoid(total_score - sink).astype(scores.dtype)
        (scores,) = mx.depends([scores], [share])  # so that softmax can work in their place
    out = mx.softmax(scores, axis=-1, precise=True) @ mx.expand_dims(values, 2)
    if share is not None:
        out = share * out
    return out.reshape(queries.shape[0], heads, length, -1)


def tiled(
    queries: Any, keys: Any, values: Any, *, scale: float, mask: Any = None, sinks: Any = None
) -> Any:
    """`whole`, for `TILE` queries at a time."""
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
        if tiles:  # one after the other, or MLX has the scores of all in memory at once
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
    """For each tile, the first key that one of its queries sees, and the one after the last."""
    starts = range(0, length, TILE)
    if isinstance(mask, str):
        return [(0, total - length + min(start + TILE, length)) for start in starts]
    if mask is None or mask.dtype != mx.bool_ or mask.shape[-2:] != (length, total):
        return [(0, total)] * len(starts)
    return [_span(mask[..., start : start + TILE, :]) for start in starts]


def _span(mask: Any) -> tuple[int, int]:
    """The keys from the first to the last that a mask lets through; (..., L, S)."""
    through = mx.any(mask.reshape(-1, mask.shape[-1]), axis=0)
    hidden: Any = mx.argmax(through[::-1]).item()
    first: Any = mx.argmax(through).item()
    return first, mask.shape[-1] - hidden


def _grouped_mask(mask: Any, kv_heads: int) -> Any:
    """A mask of 2 to 4 dimensions, for scores whose heads are split in two."""
    while mask.ndim < 4:
        mask = mask[None]
    batch, heads, length, total = mask.shape
    if heads == 1:
        return mask[:, :, None]
    return mask.reshape(batch, kv_heads, heads // kv_heads, length, total)
