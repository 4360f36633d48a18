"""Rows of KV caches that begin alike, stored once: a tree of stems.

A stem holds the rows of a span of tokens, for each layer that has a row per token. A cache whose
first tokens are those of a stem and of its parents holds only the rows after them. Layers of other
kinds, such as sliding windows and recurrent states, are valid at the end of their tokens only, and
remain whole.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ConcatenateKVCache, KVCache

from reconciler.worker.disk.layout import leaves

LEAST = 256
"""Tokens of a stem, at least: fewer are not worth an array per layer. The step by which mlx-lm's
caches grow."""

SHORT = 16
"""Stems of a cache, at least, before all new ones have LEAST tokens. A cache that remains in use
would get ever more of them, one per position at which others diverge, and take longer to copy."""

KINDS = (KVCache, ConcatenateKVCache)

LARGE = 4_000_000
"""Bytes of a layer's rows from which a copy is awaited before the next layer's begins, so that the
rows and their copies are not in memory twice."""

Pair = tuple[Any, Any]
"""Keys and values of a layer, of shape (1, heads, tokens, width)."""

Rows = dict[str, Pair]
"""Those of several layers, by the layer's path."""


@dataclass(eq=False, repr=False)
class Stem:
    """Rows of the tokens from `begin` to `end`, after those of its parents."""

    begin: int
    end: int
    rows: Rows
    parent: "Stem | None"
    bytes: int = field(init=False)
    """Size without its parents."""

    def __post_init__(self) -> None:
        self._measure()

    def split(self, at: int) -> "Stem":
        """Leave the tokens before `at` to a new parent, and return it."""
        rows: Rows = {}
        for path, pair in self.rows.items():
            rows[path], self.rows[path] = _halves(pair, at - self.begin, self.end - self.begin)
        self.parent = Stem(self.begin, at, rows, self.parent)
        self.begin = at
        self._measure()
        return self.parent

    def _measure(self) -> None:
        self.bytes = sum(int(array.nbytes) for pair in self.rows.values() for array in pair)


def chain(stem: Stem | None) -> Iterator[Stem]:
    """A stem and its parents, the first tokens last; nothing for None."""
    while stem is not None:
        yield stem
        stem = stem.parent


@dataclass(eq=False, repr=False)
class Kept:
    """A cache of so many tokens, whose first rows may be those of a stem."""

    cache: list[Any]
    tokens: int
    stem: Stem | None = field(default=None, init=False)
    paths: frozenset[str] = field(init=False)
    """The layers that have a row per token."""
    bytes: int = field(init=False)
    """Size without its stem."""

    def __post_init__(self) -> None:
        rows = (path for path, one in leaves(self.cache) if _has_rows(one, self.tokens))
        self.paths, self.bytes = frozenset(rows), _size(self.cache)

    @property
    def begin(self) -> int:
        """Number of tokens whose rows are those of its stem."""
        return self.stem.end if self.stem else 0

    def share(self, other: "Kept", common: int) -> None:
        """Share the rows of the first `common` tokens with another cache, which holds them too.

        Propagates MLX's errors; after one, neither cache can be used.
        """
        if self.stem is not None or not self.paths or self.paths != other.paths:
            return
        stem = other.stem_of(common)
        if stem is not None:
            for _, one in self._layers():
                one.keys, one.values = _part((one.keys, one.values), stem.end, self.tokens)
            self._begin_after(stem)

    def stem_of(self, tokens: int) -> Stem | None:
        """The stem that ends with its first `tokens` tokens, or at most 2 * LEAST before them."""
        if tokens >= self.begin + LEAST:
            rows: Rows = {}
            for path, one in self._layers():
                pair = one.keys, one.values
                rows[path], rest = _halves(pair, tokens - self.begin, self.tokens - self.begin)
                one.keys, one.values = rest
            self._begin_after(Stem(self.begin, tokens, rows, self.stem))
            return self.stem
        stems = list(chain(self.stem))
        for stem in stems:
            if tokens >= stem.end:
                return stem
            at = tokens if len(stems) < SHORT else min(tokens, stem.end - LEAST)
            if at >= stem.begin + LEAST:
                return stem.split(at)
        return None

    def copy(self, tokens: int) -> list[Any]:
        """Copy its cache, with the rows of the first `tokens` tokens. Others are neither read nor
        held: the copy may wait in a generator after this cache is evicted.
        """
        cache = copy.deepcopy(self.cache)
        stems = [stem for stem in chain(self.stem) if stem.begin < tokens]
        for path, one in self._layers(cache):
            parts = [
                _first(stem.rows[path], tokens - stem.begin, stem.end - stem.begin)
                for stem in reversed(stems)
            ]
            if tokens > self.begin:
                last = one.keys, one.values
                parts.append(_first(last, tokens - self.begin, self.tokens - self.begin))
            one.keys, one.values = (
                mx.concatenate(list(arrays), axis=-2) for arrays in zip(*parts, strict=True)
            )
        return cache

    def release(self) -> None:
        """Hold no arrays any more. The size stays that of what a write may still hold."""
        self.cache, self.stem = [], None

    def _begin_after(self, stem: Stem) -> None:
        self.stem, self.bytes = stem, _size(self.cache)

    def _layers(self, cache: list[Any] | None = None) -> list[tuple[str, Any]]:
        """The layers with rows, of its cache or of a copy."""
        found = leaves(self.cache if cache is None else cache)
        return [(path, one) for path, one in found if path in self.paths]


def total(caches: Sequence[Kept]) -> int:
    """Size of caches and of their stems, each counted once [bytes]. Thread-safe."""
    size, seen = 0, set[Stem]()
    for one in caches:
        size += one.bytes
        for stem in chain(one.stem):
            if stem in seen:
                break
            seen.add(stem)
            size += stem.bytes
    return size


def _has_rows(cache: Any, tokens: int) -> bool:
    return type(cache) in KINDS and cache.keys is not None and cache.offset == tokens


def _first(pair: Pair, wanted: int, rows: int) -> Pair:
    """The first `wanted` of so many rows; a copy if there are more."""
    return pair if wanted >= rows else _part(pair, 0, wanted)


def _halves(pair: Pair, at: int, end: int) -> tuple[Pair, Pair]:
    """Copies of the rows before `at`, and of those from there to `end`."""
    return _part(pair, 0, at), _part(pair, at, end)


def _part(pair: Pair, begin: int, end: int) -> Pair:
    """Copy some rows, which do not hold the others. The copies of few are started, not awaited."""
    wanted = mx.arange(begin, end)  # a slice of one head would be a view of all rows
    keys, values = (mx.take(array, wanted, axis=-2) for array in pair)
    compute = mx.eval if keys.nbytes + values.nbytes > LARGE else mx.async_eval
    compute(keys, values)
    return keys, values


def _size(cache: Sequence[Any]) -> int:
    return sum(int(one.nbytes) for one in cache)
