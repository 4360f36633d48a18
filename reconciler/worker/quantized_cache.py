"""KV caches of full attention, quantised to fewer bits per value.

mlx-lm's `QuantizedKVCache` holds one request and cannot join a batch. This one keeps the three
arrays of `mx.quantize` (packed values, scales, biases) in a plain cache each, whose methods do the
rest: growth, trimming, padding, merging and extracting. Tokens are quantised independently of each
other, so requests compute the same in a batch as alone.

mlx-lm's models take a cache with `bits` for a quantised one, and attend to it by
`quantized_scaled_dot_product_attention`, which `overrides` replaces.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import CacheList, KVCache, make_prompt_cache

from reconciler.core.footprint import KV_GROUP


class QuantizedKVCache(CacheList):  # type: ignore[misc]
    """KV cache of one layer, of one request or of a batch."""

    def __init__(self, bits: int, parts: Sequence[Any] = ()) -> None:
        """`parts`: caches of packed values, scales and biases, all of the same kind."""
        super().__init__(*(parts or (KVCache(), KVCache(), KVCache())))
        self.bits = bits
        self.group_size = KV_GROUP

    @property
    def offset(self) -> Any:
        """Number of tokens; in a batch, an array with that of each request."""
        return self.caches[0].offset

    def update_and_fetch(self, keys: Any, values: Any) -> tuple[Any, Any]:
        """Append keys and values of shape (batch, heads, tokens, width); return all of them.

        Both results are tuples of packed values, scales and biases.
        """
        new = zip(self._quantize(keys), self._quantize(values), strict=True)
        for part, pair in zip(self.caches, new, strict=True):
            part.update_and_fetch(*pair)
            part.offset = self.offset  # or else the others' graphs, which nothing reads, would grow
        return self.keys_and_values()

    def _quantize(self, array: Any) -> Any:
        return mx.quantize(array, group_size=self.group_size, bits=self.bits)

    def keys_and_values(self) -> tuple[Any, Any]:
        """Return all keys and values, as tuples of packed values, scales and biases."""
        keys, values = zip(*(part.keys_and_values() for part in self.caches), strict=True)
        return keys, values

    def make_mask(self, *args: Any, **kwargs: Any) -> Any:
        """Create the mask of the next tokens."""
        return self.caches[0].make_mask(*args, **kwargs)

    @classmethod
    def merge(cls, caches: Sequence["QuantizedKVCache"]) -> "QuantizedKVCache":
        """Merge the caches of several requests into one of a batch."""
        parts = zip(*(one.caches for one in caches), strict=True)
        return cls(caches[0].bits, [same[0].merge(list(same)) for same in parts])

    def extract(self, idx: int) -> "QuantizedKVCache":
        """Copy the cache of one request of a batch."""
        return QuantizedKVCache(self.bits, [part.extract(idx) for part in self.caches])


def make_cache(model: Any, bits: int | None) -> list[Any]:
    """Create a model's caches; with `bits`, those of full attention are quantised, as in mlx-lm."""
    cache: list[Any] = make_prompt_cache(model)
    if bits is None:
        return cache
    return [QuantizedKVCache(bits) if type(one) is KVCache else one for one in cache]
