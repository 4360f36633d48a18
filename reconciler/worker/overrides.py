"""Settings that apply to single calls of the model.

A session passes its generator the model wrapped in the session's settings. The settings matter only
while Python builds the graph, so they are set around the call. The process-wide functions of MLX
and mlx-lm (attention, the caches' update) are replaced by functions that read the current settings.
All of it runs on the MLX thread.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
from mlx_lm.models import base, cache

from reconciler.worker import attention
from reconciler.worker.attention import Quantized
from reconciler.worker.quantized_cache import QuantizedKVCache, make_cache

_fused = mx.fast.scaled_dot_product_attention


@dataclass(frozen=True)
class Overrides:
    """Settings for attention and the KV cache."""

    flash_attention: bool
    kv_on_gpu: bool
    kv_bits: int | None = None
    """Bits per value of quantised KV caches; None: not quantised."""


@dataclass(frozen=True, order=True)
class Attended:
    """Shapes of one attention call."""

    heads: int
    width: int
    """Width of a head's queries."""
    bytes: int
    """Size of one score, plus that of its float32 copy, which sinks need for other types."""
    bias: bool
    """True if an array is added to the scores, a different one for each head."""


@dataclass
class Seen:
    """Observations from calls of the model."""

    attention: set[bool] = field(default_factory=set)
    """True for fused or tiled attention; empty if the model has its own implementation."""
    kv_on_gpu: set[bool] = field(default_factory=set)
    """True if caches were updated and attention was computed on the GPU."""
    kv_bits: set[int | None] = field(default_factory=set)
    """Bits per value of the keys and values that were attended to; None: not quantised."""
    shapes: set[Attended] = field(default_factory=set)


_current: Overrides | None = None
_watching: Seen | None = None


class ModelWithOverrides:
    """A model with settings: they apply to calls; attributes are the model's."""

    def __init__(self, model: Any, overrides: Overrides) -> None:
        self._model = self.unwrapped = model
        self._overrides = overrides

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        global _current  # noqa: PLW0603  the process-wide switch of this module
        before, _current = _current, self._overrides
        try:
            return self._model(*args, **kwargs)
        finally:
            _current = before

    def make_cache(self) -> list[Any]:
        """Create the model's caches. mlx-lm's `make_prompt_cache` calls this."""
        return make_cache(self._model, self._overrides.kv_bits)

    def not_quantized(self) -> "ModelWithOverrides":
        """The same with plain KV caches."""
        return ModelWithOverrides(self._model, replace(self._overrides, kv_bits=None))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@contextmanager
def observed() -> Iterator[Seen]:
    """Observe the calls within the block."""
    global _watching  # noqa: PLW0603
    _watching = seen = Seen()
    try:
        yield seen
    finally:
        _watching = None


def install() -> None:
    """Replace MLX's and mlx-lm's functions by ours, before any model runs."""
    if mx.fast.scaled_dot_product_attention is _attend:
        return
    mx.fast.scaled_dot_product_attention = _attend
    base.quantized_scaled_dot_product_attention = _attend_quantized
    for kind in (*vars(cache).values(), QuantizedKVCache):
        update = vars(kind).get("update_and_fetch") if isinstance(kind, type) else None
        if update is not None:
            setattr(kind, "update_and_fetch", _updating(update))  # noqa: B010  mypy does not know the attribute
    setattr(cache.BatchKVCache, "make_mask", _masking(cache.BatchKVCache.make_mask))  # noqa: B010


def _attend(
    q: Any, k: Any, v: Any, *, scale: float, mask: Any = None, sinks: Any = None, **more: Any
) -> Any:
    """Compute `mx.fast.scaled_dot_product_attention` according to the current settings."""
    overrides = _current
    if overrides is None:
        return _fused(q, k, v, scale=scale, mask=mask, sinks=sinks, **more)
    with _device(overrides):
        if _watching is not None:
            _watching.kv_bits.add(None)
            _watching.shapes.add(_attended(q, mask, sinks))
        return _compute(overrides, q, k, v, scale=scale, mask=mask, sinks=sinks, **more)


def _compute(
    overrides: Overrides, q: Any, k: Any, v: Any, *, scale: float, mask: Any, **more: Any
) -> Any:
    gpu = on_gpu()
    if _watching is not None:
        _watching.attention.add(overrides.flash_attention)
        _watching.kv_on_gpu.add(gpu)
    # For one query, MLX's CPU backend runs the operations of `attention.whole`, without Python.
    # Its computation with sinks takes more memory than ours.
    fused = gpu or (q.shape[2] == 1 and more.get("sinks") is None)
    if overrides.flash_attention and fused:
        return _fused(q, k, v, scale=scale, mask=mask, **more)
    compute = attention.tiled if overrides.flash_attention else attention.whole
    return compute(q, k, v, scale=scale, mask=mask, sinks=more.get("sinks"))


def _attend_quantized(
    queries: Any,
    q_keys: Any,
    q_values: Any,
    scale: float,
    mask: Any = None,
    group_size: int = 64,
    bits: int = 8,
) -> Any:
    """Compute mlx-lm's `quantized_scaled_dot_product_attention` according to the settings.

    A generated token attends to the quantised cache as it is: reading the cache is most of its
    work. Prefill computes much more than it reads, so it dequantises the layer's keys and values
    and attends as to any others.
    """
    overrides = _current or Overrides(flash_attention=True, kv_on_gpu=True, kv_bits=bits)
    with _device(overrides):
        keys, values = (Quantized(tuple(one), group_size, bits) for one in (q_keys, q_values))
        if _watching is not None:
            _watching.kv_bits.add(bits)
            _watching.kv_on_gpu.add(on_gpu())
        if queries.shape[2] == 1:
            return attention.whole(queries, keys, values, scale=scale, mask=mask)
        k, v = keys.dequantized(queries.dtype), values.dequantized(queries.dtype)
        return _compute(overrides, queries, k, v, scale=scale, mask=mask)


def _attended(queries: Any, mask: Any, sinks: Any) -> Attended:
    heads, size = int(queries.shape[1]), int(queries.dtype.size)
    if sinks is not None and queries.dtype != mx.float32:
        size += mx.float32.size
    added = isinstance(mask, mx.array) and mask.dtype != mx.bool_
    bias = added and mask.ndim == 4 and mask.shape[1] == heads
    return Attended(heads, int(queries.shape[3]), size, bias)


def _updating(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_and_fetch(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _current is None:
            return original(self, *args, **kwargs)
        with _device(_current):
            if _watching is not None:
                _watching.kv_on_gpu.add(on_gpu())
            return original(self, *args, **kwargs)

    return update_and_fetch


_HERE = nullcontext()
"""No change of device; made once, as it is entered several times for each layer and token."""


def _device(overrides: Overrides) -> AbstractContextManager[object]:
    return _HERE if overrides.kv_on_gpu or not on_gpu() else mx.stream(mx.cpu)


def _masking(original: Callable[..., Any]) -> Callable[..., Any]:
    """Omit the mask of a batch of one request for one token, as the cache of a single prompt does.

    Padding makes prompts as long as the longest, so the mask of the only one hides nothing. MLX
    takes longer with it, most of all on the CPU.
    """

    def make_mask(self: Any, length: int, *args: Any, **kwargs: Any) -> Any:
        plain = not any(args) and not any(kwargs.values())
        if _current is not None and plain and length == 1 and self.left_padding.size == 1:
            return None
        return original(self, length, *args, **kwargs)

    return make_mask


def on_gpu() -> bool:
    """True if MLX currently runs on a GPU."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)
