"""Test by trial whether a model computes the same in a batch as alone.

Prompts that are prefilled together are padded to the longest. Models that do not mask the padding
(most with a recurrent state, in mlx-lm 0.32) treat it as part of the shorter prompts, and silently
give different completions. Other models do not accept several prompts at all. So a short prompt is
prefilled and extended by a token twice: alone, and in a batch with longer prompts as in mlx-lm's
`BatchGenerator`. Then the caches of both runs are compared: a completion depends on nothing else.

MLX evaluates only the arrays that are read, and padding already corrupts the first layer of an
affected kind. So the caches are compared up to the layer after the first one of each kind: a model
of a hundred layers costs as much as one of two. If some layers use the caches of others, the logits
are compared as well.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache

from reconciler.worker.generators import Batching, merges

SHORT = (3, 5, 4)
"""The prompt whose caches are compared."""

COMPANIES = (
    (SHORT, (2, 9, 4, 6, 8)),
    (SHORT, (5, 6, 2, 9, 7, 4), (7, 2, 4, 6)),
)
"""Batches of prompts. Two sizes, because a batch as large as the number of heads can pass by
accident."""

TOLERANCES = {mx.float32: 1e-3}
TOLERANCE = 0.25
"""Norm of the difference of two caches, relative to the norm of one: for float32, and for coarser
types, whose rounding may route a token to another expert. Among mlx-lm's architectures with random
weights, those that mask padding stayed below 2e-5 in float32 and 0.03 in bfloat16; the others were
at 0.5 or more."""

LOGITS_TOLERANCES = {mx.float32: 1e-4}
LOGITS_TOLERANCE = 0.25

READ_APART = (
    "this model gives different completions if prompts of different lengths are prefilled "
    "together, so prompts are prefilled one at a time; tokens are generated in a batch"
)
APART = "this model gives different completions in a batch, so requests run one at a time"
UNMERGEABLE = (
    "mlx-lm cannot merge the KV caches of several requests of this model, so requests run one at a "
    "time"
)

UNSEEN = {"afm7", "minimax_m3_vl"}
"""mlx-lm's modules whose models compute differently in a batch in ways that the trial does not
detect: the last layers of afm7, which use the cache of another layer, attend to padding, and
minimax_m3_vl selects blocks of a long prompt by their position in the batch."""


def learn(model: Any) -> tuple[Batching, str | None]:
    """Determine the batching under which each request gets the completion that it gets alone.

    Also returns the reason if requests cannot run together. Propagates the model's exceptions for
    a single prompt.
    """
    if not merges(model):
        return Batching.APART, UNMERGEABLE
    if type(getattr(model, "unwrapped", model)).__module__.rpartition(".")[2] in UNSEEN:
        return Batching.APART, APART
    alone = _Run(model)
    alone.read([SHORT])
    alone.go_on([SHORT])
    if all(_holds(alone, model, company, together=True) for company in COMPANIES):
        return Batching.TOGETHER, None
    if all(_holds(alone, model, company, together=False) for company in COMPANIES):
        return Batching.READ_APART, READ_APART
    return Batching.APART, APART


Arrays = tuple[tuple[str, Any], ...]
"""Arrays of one prompt in a layer's cache, each with its kind."""


class _Run:
    """Prompts in a run of a model. Builds the graph only; evaluates nothing."""

    def __init__(self, model: Any, number: int = 0) -> None:
        """`number`: prompts of the batch; 0 for a single prompt without batching."""
        self._model, self._batched = model, bool(number)
        self.cache = _merged(model, number) if number else make_prompt_cache(model)
        self.stages: list[list[Arrays]] = []
        """Arrays of the first prompt in each layer's cache, after prefill and at the end."""
        self.logits: Any = None
        """Logits of the first prompt after the last call: (vocabulary,)."""

    def read(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Prefill all but the last token of each prompt, padded to the longest."""
        lengths = [len(prompt) - 1 for prompt in prompts]
        longest = max(lengths)
        padding = [longest - length for length in lengths]
        rows = [[*prompt[:-1], *[0] * pad] for prompt, pad in zip(prompts, padding, strict=True)]
        if any(padding):
            for one in self.cache:
                one.prepare(lengths=lengths, right_padding=padding)
        self._model(mx.array(rows), cache=self.cache)
        if any(padding):
            for one in self.cache:
                one.finalize()
        self._note()

    def go_on(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Compute the last token of each prompt, and one more."""
        for token in (-1, 0):
            rows = mx.array([[prompt[token]] for prompt in prompts])
            self.logits = self._model(rows, cache=self.cache)[0, -1]
        self._note()

    def join(self, other: "_Run") -> None:
        """Add the prompts of another run to the batch."""
        for one, more in zip(self.cache, other.cache, strict=True):
            one.extend(more)

    def _note(self) -> None:
        first = [one.extract(0) if self._batched else one for one in self.cache]
        self.stages.append([tuple(_arrays(one)) for one in first])


def _holds(alone: _Run, model: Any, company: Sequence[tuple[int, ...]], *, together: bool) -> bool:
    """True if the short prompt's caches in a batch equal those of the prompt alone."""
    try:
        if together:
            run = _Run(model, len(company))
            run.read(company)
        else:
            run = _Run(model, 1)
            run.read(company[:1])
            for prompt in company[1:]:
                other = _Run(model, 1)
                other.read([prompt])
                run.join(other)
        run.go_on(company)
        return _same(alone, run, logits=len(run.stages[0]) < len(model.layers))
    except Exception:  # noqa: BLE001  an error means that the model cannot run several prompts
        return False


def _merged(model: Any, number: int) -> list[Any]:
    """Create empty caches for a batch of `number` prompts."""
    caches = [make_prompt_cache(model) for _ in range(number)]
    return [layer[0].merge(list(layer)) for layer in zip(*caches, strict=True)]


def _same(alone: _Run, beside: _Run, *, logits: bool) -> bool:
    distances = []
    for one, other in zip(alone.stages, beside.stages, strict=True):
        layers = list(zip(one, other, strict=True))[: _enough(one)]
        pairs = chain.from_iterable(zip(a, b, strict=True) for a, b in layers)
        distances += [_distance(x, y, TOLERANCES, TOLERANCE) for (_, x), (_, y) in pairs]
    if logits:
        x, y = alone.logits, beside.logits
        x, y = x - x.mean(), y - y.mean()
        distances.append(_distance(x, y, LOGITS_TOLERANCES, LOGITS_TOLERANCE))
    mx.eval(distances)
    return all(distance.item() <= 1 for distance in distances)  # false for NaN


def _enough(layers: Sequence[Arrays]) -> int:
    """Number of layers to compare: up to the layer after the first one of each kind, inclusive.

    That layer's cache depends on the output of the one before.
    """
    first: dict[tuple[str, ...], int] = {}
    for number, layer in enumerate(layers):
        first.setdefault(tuple(kind for kind, _ in layer), number)
    return max(first.values()) + 2


def _arrays(cache: Any) -> Iterator[tuple[str, Any]]:
    """Arrays in a cache of one prompt, each with its kind."""
    kind = type(cache).__name__
    if isinstance(cache, CacheList):
        for place, inner in enumerate(cache.caches):
            yield from ((f"{place}.{name}", array) for name, array in _arrays(inner))
    elif isinstance(cache, ArraysCache):
        yield from ((f"{kind}.{place}", array) for place, array in enumerate(cache.cache))
    elif not cache.empty():
        window = getattr(cache, "max_size", "")
        for place, array in enumerate(cache.keys_and_values()):
            yield f"{kind}.{window}.{place}", array


def _distance(one: Any, other: Any, tolerances: dict[Any, float], tolerance: float) -> Any:
    """Relative norm of the difference, as a multiple of the tolerance."""
    if one is None and other is None:
        return mx.array(0.0)
    if one is None or other is None or one.shape != other.shape:
        return mx.array(float("inf"))
    x, y = one.astype(mx.float32), other.astype(mx.float32)
    norm = mx.maximum(mx.linalg.norm(x), 1e-6)
    return mx.linalg.norm(x - y) / norm / tolerances.get(one.dtype, tolerance)
