"""Whether a model answers beside others as it answers alone: learnt by trying.

Prompts that are read together are padded to the longest. Models that do not mask the padding (most
with a recurrent state, in mlx-lm 0.32) take it for a part of the shorter prompts, and answer
something else without a word. Others cannot be given several prompts at all. So a short prompt is
read and goes on for a token alone, and beside longer ones as mlx-lm's `BatchGenerator` would have
it, and what its caches hold is compared: an answer depends on nothing else.

MLX evaluates only what is looked at, and padding spoils the first layer of its kind. So the caches
are compared up to the layer after the first one of each kind, which costs as much for a model of a
hundred layers as for one of two. Models in which some layers use the caches of others are compared
by their logits as well.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache

from reconciler.worker.generators import Batching, merges

SHORT = (3, 5, 4)
"""The prompt that is compared."""

COMPANIES = (
    (SHORT, (2, 9, 4, 6, 8)),
    (SHORT, (5, 6, 2, 9, 7, 4), (7, 2, 4, 6)),
)
"""Prompts that run together. Of two sizes, as a batch as large as the number of heads can pass by
accident."""

TOLERANCES = {mx.float32: 1e-3}
TOLERANCE = 0.25
"""Norm of the difference of two caches as a part of the norm of one: for float32, and for coarser
types, where rounding may send a token to another expert. Of mlx-lm's architectures with random
weights those that mask padding stayed below 2e-5 in float32 and 0.03 in bfloat16; the others were
at 0.5 or more."""

LOGITS_TOLERANCES = {mx.float32: 1e-4}
LOGITS_TOLERANCE = 0.25

READ_APART = (
    "this model answers differently if prompts of different lengths are read together, so they are "
    "read one after the other; tokens are generated together"
)
APART = "this model answers differently beside other requests, so they are answered one by one"
UNMERGEABLE = (
    "mlx-lm cannot hold the caches of several requests of this model together, so they are "
    "answered one after the other"
)

UNSEEN = {"afm7", "minimax_m3_vl"}
"""mlx-lm's modules whose models answer differently in company in ways that a trial does not show:
the last layers of afm7, which use the cache of another, attend to padding, and minimax_m3_vl
chooses blocks of a long prompt by their place in the batch."""


def learn(model: Any) -> tuple[Batching, str | None]:
    """How requests can run beside each other so that each is answered as if it were alone.

    Also why not together, in words. Raises what the model raises for one prompt.
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
"""What a layer's cache holds of one prompt, each with its kind."""


class _Run:
    """Prompts on their way through a model. Nothing is evaluated here."""

    def __init__(self, model: Any, number: int = 0) -> None:
        """With caches for a batch of so many prompts, or for one alone."""
        self._model, self._batched = model, bool(number)
        self.cache = _merged(model, number) if number else make_prompt_cache(model)
        self.stages: list[list[Arrays]] = []
        """What each layer's cache held of the first prompt, after reading and at the end."""
        self.logits: Any = None
        """Of the first prompt, after the last call: (vocabulary,)."""

    def read(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Read all but the last token of each, padded to the longest."""
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
        """Compute the last token of each, and one more."""
        for token in (-1, 0):
            rows = mx.array([[prompt[token]] for prompt in prompts])
            self.logits = self._model(rows, cache=self.cache)[0, -1]
        self._note()

    def join(self, other: "_Run") -> None:
        """Go on together with prompts that were read elsewhere."""
        for one, more in zip(self.cache, other.cache, strict=True):
            one.extend(more)

    def _note(self) -> None:
        first = [one.extract(0) if self._batched else one for one in self.cache]
        self.stages.append([tuple(_arrays(one)) for one in first])


def _holds(alone: _Run, model: Any, company: Sequence[tuple[int, ...]], *, together: bool) -> bool:
    """Whether the short prompt gets on in company as it does alone."""
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
    except Exception:  # noqa: BLE001  it cannot hold several: that is what is asked
        return False


def _merged(model: Any, number: int) -> list[Any]:
    """Empty caches for so many prompts."""
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
    return all(distance.item() <= 1 for distance in distances)  # false for what is no number


def _enough(layers: Sequence[Arrays]) -> int:
    """Up to and with the layer after the first one of each kind: it shows what that one did."""
    first: dict[tuple[str, ...], int] = {}
    for number, layer in enumerate(layers):
        first.setdefault(tuple(kind for kind, _ in layer), number)
    return max(first.values()) + 2


def _arrays(cache: Any) -> Iterator[tuple[str, Any]]:
    """What a cache of one prompt holds, each with its kind."""
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
    """The norm of the difference, as a multiple of what is tolerated."""
    if one is None and other is None:
        return mx.array(0.0)
    if one is None or other is None or one.shape != other.shape:
        return mx.array(float("inf"))
    x, y = one.astype(mx.float32), other.astype(mx.float32)
    norm = mx.maximum(mx.linalg.norm(x), 1e-6)
    return mx.linalg.norm(x - y) / norm / tolerances.get(one.dtype, tolerance)
