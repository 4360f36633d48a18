"""Determine the shapes of a model's working memory from a call that is not evaluated.

A lazily built model reads only the headers of its files, and MLX knows the shapes of all arrays
that a call would compute.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import cache as caches
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from reconciler.core.embedder import Embedder
from reconciler.core.facts import Shapes
from reconciler.worker import kv_quantization, overrides
from reconciler.worker.building import build_lazily
from reconciler.worker.embedding import encoder

TOKENS = 8
"""Tokens of the call; few, because a recurrent model's graph grows with each."""

_LINEARS = (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear)


@dataclass(frozen=True)
class _Output:
    """Sizes of a linear layer's input and output [bytes per token], and its output features."""

    read: int
    written: int
    features: int


def see(path: Path, embedder: Embedder | None = None) -> Shapes:
    """Determine the shapes of the checkpoint in directory `path`, without an embedder's head.

    Propagates mlx_lm's exceptions for a checkpoint that it cannot load. Raises ValueError if the
    model has a cache of unknown kind.
    """
    if embedder is None:
        model, config = build_lazily(path)
        called = model
    else:
        model, config = encoder.load(path, embedder)
        called = encoder.hidden_states(model)
    bound = overrides.ModelWithOverrides(
        called, overrides.Overrides(flash_attention=True, kv_on_gpu=overrides.on_gpu())
    )
    cache, longer = make_prompt_cache(model), make_prompt_cache(model)
    with overrides.observed() as seen, _linear_outputs() as outputs:
        out = bound(mx.zeros((1, TOKENS), dtype=mx.int32), cache=cache)
    grown = _nodes(bound(mx.zeros((1, 2 * TOKENS), dtype=mx.int32), cache=longer)) - _nodes(out)
    leaves = [leaf for one in cache for leaf in _leaves(one)]
    growing = [_per_token(leaf) for leaf in leaves if _grows(leaf) and _window(leaf) is None]
    windows = [(_window(leaf), _per_token(leaf)) for leaf in leaves if _window(leaf) is not None]
    attended = max(seen.shapes, default=None)
    kept = bool(growing or windows)
    heads = attended.heads if attended is not None else _heads(config) if kept else 0
    vocabulary = config.get("vocab_size")  # the logits are computed for the last token only
    inner = [out.written for out in outputs if out.features != vocabulary]
    return Shapes(
        growing=sum(growing),
        windows=tuple((w, size) for w, size in windows if w is not None),
        fixed=sum(leaf.nbytes for leaf in leaves if not _grows(leaf)),
        largest_layer=max(growing, default=0),
        grows_by=max((getattr(leaf, "step", 1) for leaf in leaves if _grows(leaf)), default=0),
        heads=heads,
        head_width=attended.width if attended is not None else 0,
        score_bytes=max((int(leaf.keys.dtype.size) for leaf in leaves if _grows(leaf)), default=0),
        own_attention=attended is None and kept,
        bias=attended is not None and attended.bias,
        hidden=outputs[0].read if outputs else 0,
        widest=max(inner, default=0),
        nodes=max(0, grown) // TOKENS,
        weights=sum(array.nbytes for _, array in tree_flatten(model.parameters())),
        unquantizable_kv=kv_quantization.refusal(model, cache) if embedder is None else "",
    )


def vocabulary(model: Any) -> int:
    """Upper bound of a model's token ids: the smaller of its embedding rows and its logits.

    Tokenizers number tokens with gaps, and models have rows that no token uses. So neither the
    number of tokens nor config.json's `vocab_size` is a bound.
    """
    logits = model(mx.zeros((1, 1), dtype=mx.int32), cache=make_prompt_cache(model))
    return int(min(logits.shape[-1], embedding_rows(model) or logits.shape[-1]))


def embedding_rows(model: Any) -> int:
    """Rows of a model's token embedding; 0 if it has no embedding layer of mlx."""
    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    rows = [m.weight.shape[0] for m in model.modules() if isinstance(m, kinds)]
    return int(max(rows, default=0))


@contextmanager
def _linear_outputs() -> Iterator[list[_Output]]:
    """Record the outputs of linear layers that are called within the block, in order."""
    outputs: list[_Output] = []
    originals = [kind.__call__ for kind in _LINEARS]
    for kind, original in zip(_LINEARS, originals, strict=True):
        kind.__call__ = _noting(original, outputs)
    try:
        yield outputs
    finally:
        for kind, original in zip(_LINEARS, originals, strict=True):
            kind.__call__ = original


def _noting(original: Callable[..., Any], outputs: list[_Output]) -> Callable[..., Any]:
    def call(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        out = original(self, x, *args, **kwargs)
        outputs.append(_Output(x.nbytes // TOKENS, out.nbytes // TOKENS, out.shape[-1]))
        return out

    return call


def _leaves(cache: Any) -> Iterator[Any]:
    """Yield the parts of a layer's cache. Raises ValueError for a kind not defined by mlx_lm."""
    if isinstance(cache, caches.CacheList):
        for inner in cache.caches:
            yield from _leaves(inner)
    elif type(cache).__module__ == caches.__name__:
        yield cache
    else:
        raise ValueError(f"the model uses a {type(cache).__name__}, whose growth is unknown")


def _nodes(out: Any) -> int:
    """Number of arrays and operations in the graph of `out`."""
    text = io.StringIO()
    mx.export_to_dot(text, out)
    return text.getvalue().count("label =")


def _grows(cache: Any) -> bool:
    return getattr(cache, "keys", None) is not None


def _window(cache: Any) -> int | None:
    """Window of a sliding or chunked cache [tokens]; None for other kinds."""
    return getattr(cache, "max_size", None) or getattr(cache, "chunk_size", None)


def _per_token(cache: Any) -> int:
    return int(cache.nbytes) // int(cache.keys.shape[2])


def _heads(config: dict[str, Any]) -> int:
    """Attention heads in config.json, for a model whose own attention cannot be observed."""
    inner = config.get("text_config") or config
    return int(inner.get("num_attention_heads") or inner.get("n_head") or inner.get("n_heads") or 0)
