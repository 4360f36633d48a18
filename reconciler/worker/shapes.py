"""What a model works with in memory: seen in a call of it that nothing evaluates.

A lazily built model reads only the headers of its files, and MLX knows the shapes of everything
that a call of it would compute.
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
from mlx_lm.utils import load_model

from reconciler.core.embedder import Embedder
from reconciler.core.facts import Shapes
from reconciler.worker import overrides
from reconciler.worker.embedding import encoder

TOKENS = 8
"""Of the call: few, as a recurrent model's graph grows with each."""

_LINEARS = (nn.Linear, nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear)


@dataclass(frozen=True)
class _Output:
    """What a linear layer read and wrote, in bytes for each token, and how wide its output is."""

    read: int
    written: int
    features: int


def see(path: Path, embedder: Embedder | None = None) -> Shapes:
    """The shapes of the checkpoint in directory `path`; of an embedding model without its head.

    Raises what mlx_lm raises on a checkpoint that it cannot load, and ValueError where the model
    keeps its cache in a way that is not known here.
    """
    if embedder is None:
        model, config = load_model(path, lazy=True)
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
    vocabulary = config.get("vocab_size")  # computed for the last token alone
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
    )


def vocabulary(model: Any) -> int:
    """Token ids that a model takes and gives are below this: rows of its embedding and logits.

    Tokenizers number tokens with gaps, and models have rows that no token uses, so neither the
    number of tokens nor config.json's `vocab_size` is a bound.
    """
    logits = model(mx.zeros((1, 1), dtype=mx.int32), cache=make_prompt_cache(model))
    return int(min(logits.shape[-1], embedding_rows(model) or logits.shape[-1]))


def embedding_rows(model: Any) -> int:
    """Rows of a model's embedding of tokens; 0 if it has none of mlx's."""
    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    rows = [m.weight.shape[0] for m in model.modules() if isinstance(m, kinds)]
    return int(max(rows, default=0))


@contextmanager
def _linear_outputs() -> Iterator[list[_Output]]:
    """The outputs of linear layers that calls within the block make, in order."""
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
    """The caches that a layer's cache consists of. Raises ValueError for one of its own kind."""
    if isinstance(cache, caches.CacheList):
        for inner in cache.caches:
            yield from _leaves(inner)
    elif type(cache).__module__ == caches.__name__:
        yield cache
    else:
        raise ValueError(f"the model keeps a {type(cache).__name__}, whose growth is not known")


def _nodes(out: Any) -> int:
    """Arrays and operations that lead to it."""
    text = io.StringIO()
    mx.export_to_dot(text, out)
    return text.getvalue().count("label =")


def _grows(cache: Any) -> bool:
    return getattr(cache, "keys", None) is not None


def _window(cache: Any) -> int | None:
    """Tokens that a cache of the last ones keeps."""
    return getattr(cache, "max_size", None) or getattr(cache, "chunk_size", None)


def _per_token(cache: Any) -> int:
    return int(cache.nbytes) // int(cache.keys.shape[2])


def _heads(config: dict[str, Any]) -> int:
    """Of a model whose attention is its own, so that it cannot be seen."""
    inner = config.get("text_config") or config
    return int(inner.get("num_attention_heads") or inner.get("n_head") or inner.get("n_heads") or 0)
