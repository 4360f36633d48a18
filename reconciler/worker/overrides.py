"""Settings that are in force around a call of the model, and nowhere else.

A session hands its generator the model wrapped in its settings. They matter only while Python
builds the graph, so they are set around the call, and what MLX and mlx-lm offer as process-wide
functions (attention, the caches' update) looks here which way to go. All of it runs on the MLX
thread.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models import cache

from reconciler.worker import attention

_fused = mx.fast.scaled_dot_product_attention


@dataclass(frozen=True)
class Overrides:
    """How attention and the KV cache are computed."""

    flash_attention: bool
    kv_on_gpu: bool


@dataclass(frozen=True, order=True)
class Attended:
    """The shapes of one attention."""

    heads: int
    width: int
    """Of a head's queries."""
    bytes: int
    """Of one score, and of the copy of it that sinks need where it is not float32."""
    bias: bool
    """An array is added to the scores, for each head another."""


@dataclass
class Seen:
    """What calls of the model did while somebody looked."""

    attention: set[bool] = field(default_factory=set)
    """Whether fused or tiled; empty where the model has an attention of its own."""
    kv_on_gpu: set[bool] = field(default_factory=set)
    """The devices on which caches were updated and attention was computed."""
    shapes: set[Attended] = field(default_factory=set)


_current: Overrides | None = None
_watching: Seen | None = None


class ModelWithOverrides:
    """A model with settings: called, it has them in force; otherwise it is the model."""

    def __init__(self, model: Any, overrides: Overrides) -> None:
        self._model = self.unwrapped = model
        self._overrides = overrides

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        global _current  # noqa: PLW0603  the process-wide switch that this module is for
        before, _current = _current, self._overrides
        try:
            return self._model(*args, **kwargs)
        finally:
            _current = before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@contextmanager
def observed() -> Iterator[Seen]:
    """What the calls within the block did."""
    global _watching  # noqa: PLW0603
    _watching = seen = Seen()
    try:
        yield seen
    finally:
        _watching = None


def install() -> None:
    """Put our functions in the place of MLX's and mlx-lm's, before any model runs."""
    if mx.fast.scaled_dot_product_attention is _attend:
        return
    mx.fast.scaled_dot_product_attention = _attend
    for kind in vars(cache).values():
        update = vars(kind).get("update_and_fetch") if isinstance(kind, type) else None
        if update is not None:
            setattr(kind, "update_and_fetch", _updating(update))  # noqa: B010  a class as it comes


def _attend(
    q: Any, k: Any, v: Any, *, scale: float, mask: Any = None, sinks: Any = None, **more: Any
) -> Any:
    """`mx.fast.scaled_dot_product_attention`, the way the current settings ask for."""
    overrides = _current
    if overrides is None:
        return _fused(q, k, v, scale=scale, mask=mask, sinks=sinks, **more)
    with _device(overrides):
        gpu = on_gpu()
        if _watching is not None:
            _watching.attention.add(overrides.flash_attention)
            _watching.kv_on_gpu.add(gpu)
            _watching.shapes.add(_attended(q, mask, sinks))
        if not overrides.flash_attention:
            return attention.whole(q, k, v, scale=scale, mask=mask, sinks=sinks)
        if gpu:
            return _fused(q, k, v, scale=scale, mask=mask, sinks=sinks, **more)
        return attention.tiled(q, k, v, scale=scale, mask=mask, sinks=sinks)


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


@contextmanager
def _device(overrides: Overrides) -> Iterator[None]:
    if overrides.kv_on_gpu or not on_gpu():
        yield
    else:
        with mx.stream(mx.cpu):
            yield


def on_gpu() -> bool:
    """Whether MLX computes on a GPU here and now."""
    return bool(mx.default_device().type == mx.DeviceType.gpu)
