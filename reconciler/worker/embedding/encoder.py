"""A decoder without its head: tokens -> hidden states -> one vector per text.

mlx-lm's models return logits. The hidden states come from the inner module `model`, after its last
norm, as transformers' `last_hidden_state`. Texts are padded on the right: a token attends to
earlier tokens only, so padding changes nothing, and the results at padding are never pooled. No
mask is needed, for any kind of attention or recurrent state.

A model with bidirectional attention gets its own masks: see `both_ways`.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import _get_classes

from reconciler.core.embedder import Dense, Embedder
from reconciler.worker.building import build_lazily

PREFIX = "model."

_BARE = ("embed_tokens.", "layers.", "norm.")
"""Tensor name prefixes in a checkpoint that was saved without the model's head."""

_HEAD = "lm_head"

_OTHERS = (f"{_HEAD}.", "dense.")
"""Tensor name prefixes that are ignored: mlx-embeddings stores a second copy of Dense modules among
the model's own weights."""

_BIDIRECTIONAL = ("gemma3_text", "qwen2", "qwen3")
"""mlx-lm's modules that create all masks with `create_attention_mask`; only gemma3_text has layers
with a sliding window."""


_UNEQUAL = ("phi3small", "plamo3")
"""mlx-lm's modules whose results for a text depend on batching or chunking."""


def load(
    path: Path, embedder: Embedder, model_config: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Load the model lazily, without its head and with its Dense modules.

    `model_config` replaces keys of config.json. Returns the model and its config. Raises the
    exceptions of mlx_lm, and ValueError if the model has no hidden states to pool or their width
    differs from the files.
    """
    model, config = build_lazily(path, model_config=model_config, get_model_classes=_classes)
    if not hasattr(model, "model") or _architecture(model) in _UNEQUAL:
        words = "mlx-lm's model provides no hidden states for embeddings"
        raise ValueError(f"{_architecture(model)}: {words}")
    if not embedder.causal:
        _check_both_ways(model)
    model.dense = [_dense(layer) for layer in embedder.dense]
    try:
        hidden = hidden_states(model)(mx.zeros((1, 1), dtype=mx.int32))
    except Exception as error:
        words = f"hidden states cannot be computed: {type(error).__name__}: {error}"
        raise ValueError(f"{_architecture(model)}: {words}") from error
    before = embedder.dense[0].inputs if embedder.dense else embedder.dimensions
    width = before // len(embedder.pooling)
    if not isinstance(hidden, mx.array) or hidden.ndim != 3 or hidden.shape[-1] != width:
        shape = tuple(hidden.shape) if isinstance(hidden, mx.array) else type(hidden).__name__
        words = f"expected hidden states of width {width} from {_architecture(model)}"
        raise ValueError(f"{words}, got {shape}")
    return model, config


def hidden_states(model: Any) -> Any:
    """Return the module that computes hidden states.

    Called with (batch, length) token ids and a list of caches as `cache`, it returns (batch,
    length, width).
    """
    return model.model


def _module(model: Any) -> str:
    """Name of the mlx-lm module that defines the model."""
    return str(type(model).__mro__[1].__module__)


def _architecture(model: Any) -> str:
    return _module(model).rpartition(".")[2]


def _classes(config: dict[str, Any]) -> tuple[Any, Any]:
    """Return mlx-lm's classes for a config.json, extended to load checkpoints without a head."""
    model_class, args_class = _get_classes(config)

    def sanitize(self: Any, weights: dict[str, Any]) -> dict[str, Any]:
        weights = {_inner(name): weight for name, weight in weights.items()}
        if hasattr(model_class, "sanitize"):
            weights = model_class.sanitize(self, weights)
        self.pop(_HEAD, None)
        return {k: w for k, w in weights.items() if not k.startswith(_OTHERS)}

    return type("Headless", (model_class,), {"sanitize": sanitize}), args_class


def _inner(name: str) -> str:
    return PREFIX + name if name.startswith(_BARE) else name


def _dense(layer: Dense) -> Any:
    linear = nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
    weights: Any = mx.load(layer.file)
    names = {name.removeprefix("linear."): weight for name, weight in weights.items()}
    linear.load_weights(list(names.items()))
    return linear


class Encoder:
    """Pools hidden states incrementally. Used on the MLX thread only."""

    def __init__(self, embedder: Embedder, dense: Sequence[Any]) -> None:
        """`dense` are the layers of `embedder.dense`, in the same order."""
        self._embedder, self._dense = embedder, dense

    def pool(self, hidden: Any, lengths: Sequence[int], skips: Sequence[int]) -> Any:
        """Pool the hidden states of a batch; return float32 vectors (batch, dimensions).

        hidden: (batch, length, width). `lengths` are the numbers of tokens. The first `skips`
        tokens of each text, its prompt, are not pooled.
        """
        states = States(self._embedder.pooling)
        states.add(hidden, lengths, skips)
        return self.finish(states)

    def finish(self, states: "States") -> Any:
        """Compute the vectors of completely read texts; float32 (batch, dimensions)."""
        vectors = states.pooled()
        for layer, facts in zip(self._dense, self._embedder.dense, strict=True):
            vectors = layer(vectors)
            if facts.activation == "Tanh":
                vectors = mx.tanh(vectors)
        return vectors.astype(mx.float32)


class States:
    """Pooling state of a batch of texts, updated piece by piece."""

    def __init__(self, pooling: tuple[str, ...]) -> None:
        self._pooling = pooling
        self._read = 0
        self._parts: dict[str, Any] = {}
        self._counts: Any = None
        """Number of pooled tokens, (batch, 1)."""
        self._weights: Any = None
        """Sum of the weights of `weightedmean`, (batch, 1)."""

    def add(self, hidden: Any, lengths: Sequence[int], skips: Sequence[int]) -> None:
        """Add the next piece: hidden states (batch, length, width)."""
        places = mx.arange(self._read, self._read + hidden.shape[1])[None, :, None]
        ends, starts = (mx.array(list(n))[:, None, None] for n in (lengths, skips))
        # Excluded states may be NaN, so they are replaced by 0 rather than multiplied by 0.
        states = hidden.astype(mx.float32)
        pooled = (places >= starts) & (places < ends)
        shown = mx.where(pooled, states, 0.0)
        steps = {
            "cls": lambda: mx.where(places == 0, states, 0.0).sum(axis=1),
            "lasttoken": lambda: mx.where(places == ends - 1, states, 0.0).sum(axis=1),
            "max": lambda: mx.where(pooled, states, -mx.inf).max(axis=1),
            "mean": lambda: shown.sum(axis=1),
            "mean_sqrt_len_tokens": lambda: shown.sum(axis=1),
            "weightedmean": lambda: (shown * (places + 1)).sum(axis=1),
        }
        for mode in self._pooling:
            part = steps[mode]()
            before = self._parts.get(mode)
            if before is not None:
                part = mx.maximum(before, part) if mode == "max" else before + part
            self._parts[mode] = part
        self._counts = self._sum(self._counts, pooled)
        self._weights = self._sum(self._weights, pooled * (places + 1))
        self._read += hidden.shape[1]

    @staticmethod
    def _sum(before: Any, more: Any) -> Any:
        total = more.astype(mx.float32).sum(axis=1)
        return total if before is None else before + total

    def arrays(self) -> list[Any]:
        """Arrays to evaluate before the next piece."""
        return [*self._parts.values(), self._counts, self._weights]

    def pooled(self) -> Any:
        """Pooled states, float32 (batch, width x pooling modes)."""
        counts, weights = mx.maximum(self._counts, 1e-9), mx.maximum(self._weights, 1e-9)
        divisors = {
            "mean": counts,
            "mean_sqrt_len_tokens": mx.sqrt(counts),
            "weightedmean": weights,
        }
        parts = [self._parts[mode] / divisors.get(mode, 1.0) for mode in self._pooling]
        return mx.concatenate(parts, axis=-1)


class _Mask:
    """Bidirectional replacement for mlx-lm's `create_attention_mask`."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """`lengths` are those of the texts in the batch; empty if there is no padding."""
        self._lengths = lengths

    def __call__(self, h: Any, _cache: Any = None, window_size: int | None = None) -> Any:
        length = h.shape[1]
        places = mx.arange(length)
        mask = mx.ones((1, 1, length, length), dtype=mx.bool_)
        if window_size is not None:
            # As transformers' Gemma3TextConfig: the distance is less than (window // 2) + 1.
            distance = mx.abs(places[:, None] - places[None])
            mask = (distance < window_size // 2 + 1)[None, None]
        if self._lengths:
            # Padding attends to itself: a row without any key would give NaN.
            ends = mx.array(list(self._lengths))[:, None, None, None]
            itself = places[:, None] == places[None]
            mask = mask & ((places[None, None, None] < ends) | itself[None, None])
        return mask


def _check_both_ways(model: Any) -> None:
    """Raise ValueError if bidirectional attention is not possible with mlx-lm's model."""
    if _architecture(model) not in _BIDIRECTIONAL:
        words = "its tokens attend in both directions, which mlx-lm cannot compute for this model"
        raise ValueError(f"{_architecture(model)}: {words}")


@contextmanager
def both_ways(model: Any, lengths: Sequence[int] = ()) -> Iterator[None]:
    """Use bidirectional attention in the model within the block.

    lengths: those of the texts in the batch; empty if there is no padding.
    """
    module = sys.modules[_module(model)]
    original = module.create_attention_mask
    module.create_attention_mask = _Mask(lengths)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.create_attention_mask = original  # type: ignore[attr-defined]
