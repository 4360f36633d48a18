"""Memory that a load needs, in bytes: process, weights, KV cache, and working memory of prefill.

The KV cache is exact: its shapes are measured on the model, and MLX allocates accordingly. The
rest are sums over the arrays that mlx-lm's models have in memory at once, with factors fitted to
measured peaks of MLX's CPU backend (`tests/daemon/test_estimates.py` holds them to -5 % and +15 %).
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from reconciler.core.embedder import Embedder
from reconciler.core.facts import Checkpoint, Machine, Shapes
from reconciler.core.records import EffectiveSettings

TILE = 256
"""Queries processed at once by tiled attention: this many stay in a CPU's caches."""

PREFILL_BATCH = 8
"""Prompts in one prefill batch; mlx-lm's default."""

FUSED_WIDTHS = (64, 80, 128)
"""Head widths for which MLX has a fused Metal kernel for the attention of prefill; source:
mlx/backend/metal/scaled_dot_product_attention.cpp."""

KV_BITS = (8, 4)
"""Bits per value of a quantised KV cache."""

KV_GROUP = 64
"""Values that share a scale and a bias in a quantised KV cache; mlx-lm's default."""

HIDDEN_COPIES = 7
WIDEST_COPIES = 2
"""Arrays of a layer in memory at once, of the width of its input and of its widest output."""

TOKENIZER_FACTOR = 35
"""Bytes of a loaded tokenizer per byte of tokenizer.json: 22 in the worker, measured at 50,000 and
151,000 entries, and 13 in its preprocessing process, at 150,000."""

NODE = 500
"""Bytes of one array or operation in MLX's graph."""

GRAPH = 30_000_000
"""Bytes by which a serving process grows: graphs of calls, its threads, and its allocator's arenas.

Measured with `tests/long/test_estimates.py`."""


@dataclass(frozen=True)
class Need:
    """Memory of an instance. All instances of a checkpoint share process and weights."""

    process: int
    weights: int
    kv: int
    working: int
    """Working memory of prefill, at the longest context counted."""
    adapter: int = 0
    """The adapter's weights."""
    draft: int = 0
    """The draft model's weights, KV cache and prefill."""

    @property
    def session(self) -> int:
        """Memory for requests: KV cache and prefill."""
        return self.kv + self.working

    @property
    def shared(self) -> int:
        """Memory used once for all instances of the checkpoint."""
        return self.process + self.weights

    @property
    def own(self) -> int:
        """Memory used by this instance alone."""
        return self.session + self.adapter + self.draft

    @property
    def total(self) -> int:
        """Memory of the only instance of a checkpoint."""
        return self.shared + self.own


def process_bytes(checkpoint: Checkpoint, machine: Machine) -> int:
    """Memory of a worker that serves this checkpoint, without MLX's allocations."""
    if not machine.process_bytes:
        return 0
    return machine.process_bytes + GRAPH + TOKENIZER_FACTOR * checkpoint.tokenizer_bytes


def adapter_bytes(checkpoint: Checkpoint) -> int:
    """Size of the adapter's weights; 0 without an adapter."""
    return checkpoint.adapter.weights_bytes if checkpoint.adapter is not None else 0


def draft_step(config: EffectiveSettings) -> int:
    """Tokens of a prompt that a draft model reads at a time."""
    return min(config.eval_batch_size, TILE)


def draft_bytes(checkpoint: Checkpoint, config: EffectiveSettings, tokens: int) -> int:
    """Memory of the draft model for one request of so many tokens; 0 without one.

    It reads a prompt while the model reads none, in the working memory of the model. Its KV cache
    is not quantised.
    """
    draft = checkpoint.draft
    if draft is None:
        return 0
    shapes = draft.footprint
    reading = replace(config, eval_batch_size=draft_step(config), kv_cache_bits=None)
    working = working_bytes(shapes, reading, tokens)
    more = max(0, working - working_bytes(checkpoint.footprint, config, tokens))
    return draft.weights_bytes + kv_bytes(shapes, tokens) + more


def reading_config(config: EffectiveSettings, embedder: Embedder | None) -> EffectiveSettings:
    """The settings with the longest possible step in place of the prefill step.

    An embedding model with bidirectional attention reads a text in one step.
    """
    if embedder is None or embedder.causal:
        return config
    return replace(config, eval_batch_size=max(config.eval_batch_size, config.context_length))


def kv_bytes(shapes: Shapes, tokens: int, bits: int | None = None) -> int:
    """Size of the KV cache, or of what the model keeps instead, for a request of so many tokens.

    `bits`: bits per value of a quantised one.
    """
    sliding = sum(min(tokens, window) * size for window, size in shapes.windows)
    return tokens * _quantized(shapes, shapes.growing, bits) + sliding + shapes.fixed


def _quantized(shapes: Shapes, size: int, bits: int | None) -> int:
    """Size of a quantised KV cache that takes `size` bytes otherwise.

    Each group of values has a scale and a bias of the size of a value (`mx.quantize`).
    """
    if bits is None or not shapes.score_bytes:
        return size
    group = KV_GROUP * bits // 8 + 2 * shapes.score_bytes
    return size * group // (KV_GROUP * shapes.score_bytes)


def working_bytes(shapes: Shapes, config: EffectiveSettings, tokens: int) -> int:
    """Working memory of the prefill step that ends at `tokens` tokens.

    It consists of the scores of one layer's attention, their mask, a layer's activations, the part
    of a KV cache that exists twice while it grows, and a quantised layer's keys and values, which
    prefill dequantises.
    """
    step = min(config.eval_batch_size, tokens)
    rows = step
    if config.flash_attention and not shapes.own_attention:
        rows = min(step, TILE)
        if config.offload_kv_cache_to_gpu:  # without a kernel for the width MLX falls back to this
            rows = 0 if shapes.head_width in FUSED_WIDTHS else step
    if shapes.bias:  # it exists for all rows at once
        rows += step
    keys = tokens if shapes.growing else min(tokens, step + _widest_window(shapes))
    scores = rows * keys * shapes.heads * shapes.score_bytes
    mask = step * keys if shapes.heads else 0
    activations = step * (HIDDEN_COPIES * shapes.hidden + WIDEST_COPIES * shapes.widest)
    window = max((size for _, size in shapes.windows), default=0)
    layer, growing = (
        _quantized(shapes, size, config.kv_cache_bits)
        for size in (shapes.largest_layer, shapes.growing)
    )
    growth = tokens * layer + shapes.grows_by * growing + step * window
    dequantized = tokens * shapes.largest_layer if config.kv_cache_bits else 0
    return scores + mask + activations + growth + dequantized + step * shapes.nodes * NODE


def _widest_window(shapes: Shapes) -> int:
    return max((window for window, _ in shapes.windows), default=0)


def batch_bytes(shapes: Shapes, config: EffectiveSettings, requests: int, tokens: int) -> int:
    """Memory of a batch of `requests`, padded to the `tokens` of the longest one."""
    if not requests:
        return 0
    reading = min(requests, PREFILL_BATCH)
    held = requests * kv_bytes(shapes, tokens, config.kv_cache_bits)
    return held + reading * working_bytes(shapes, config, tokens)


@lru_cache(maxsize=1000)
def most_tokens(shapes: Shapes, config: EffectiveSettings, room: int, limit: int) -> int:
    """Tokens of the longest request that fits in `room` bytes; at most `limit`."""
    least, most = 0, limit
    while least < most:
        middle = (least + most + 1) // 2
        if batch_bytes(shapes, config, 1, middle) <= room:
            least = middle
        else:
            most = middle - 1
    return least
