"""Determine whether a model's KV cache can be quantised, from a call that is not evaluated."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache, make_prompt_cache

from reconciler.core.footprint import KV_GROUP
from reconciler.worker import overrides

BITS = 8
"""Bits of the trial. What the bits are makes no difference to a model."""

WINDOW = "this model keeps a sliding window, which mlx-lm cannot quantize"
OTHER = "this model keeps a {kind}, which mlx-lm cannot quantize"
WIDTH = "this model's attention heads are {width} wide, and MLX quantizes groups of {group} values"
OWN = "mlx-lm's attention of this model cannot use a quantized KV cache"


def refusal(model: Any, cache: Sequence[Any]) -> str:
    """Reason why a model's KV cache cannot be quantised; empty if it can, or if it has none.

    `cache`: the model's caches, after a call.
    """
    growing = [one for one in cache if _keeps_keys(one)]
    for one in growing:
        if isinstance(one, RotatingKVCache):
            return WINDOW
        if type(one) is not KVCache:
            return OTHER.format(kind=type(one).__name__)
        for array in one.keys_and_values():
            if array.shape[-1] % KV_GROUP:
                return WIDTH.format(width=array.shape[-1], group=KV_GROUP)
    return _trial(model) if growing else ""


def _keeps_keys(cache: Any) -> bool:
    if isinstance(cache, CacheList):
        return any(map(_keeps_keys, cache.caches))
    return getattr(cache, "keys", None) is not None


def _trial(model: Any) -> str:
    """Build the graphs of prefill and of one more token."""
    settings = overrides.Overrides(flash_attention=True, kv_on_gpu=overrides.on_gpu(), kv_bits=BITS)
    bound = overrides.ModelWithOverrides(model, settings)
    cache = make_prompt_cache(bound)
    try:
        with overrides.observed() as seen:
            for tokens in (2, 1):
                bound(mx.zeros((1, tokens), dtype=mx.int32), cache=cache)
    except Exception:  # noqa: BLE001  a model that computes with the arrays fails in any way
        return OWN
    return "" if seen.kv_bits == {BITS} else OWN
