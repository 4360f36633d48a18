"""Rows of KV caches that begin alike, stored once: a tree of stems.

A stem holds the rows of a span of tokens, for each layer that has a row per token. A cache whose
first tokens are those of a stem and of its parents holds only the rows after them. Layers of other
kinds, such as sliding windows and recurrent states, are valid at the end of their tokens only, and
remain whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import ConcatenateKVCache, KVCache

from reconciler.worker.disk.layout import leaves

LEAST = 256
"""Tokens of a stem, at least: fewer are not worth an array per layer. The step by which mlx-lm's
caches grow."""

KINDS = (KVCache, ConcatenateKVCache)

Rows = Mapping[str, tuple[Any, Any]]
"""Keys and values of each layer, of shape (1, heads, tokens, width), by the layer's path."""


@dataclass(eq=False)
class Stem:
    """Rows of the tokens from `begin` to `end`, after those of its parents."""

    begin: int
    end: int
    rows: Rows
    parent: "Stem | None"

    @property
    def bytes(self) -> int:
        """Size without its parents."""
        return sum(int(array.nbytes) for pair in self.rows.values() for array in pair)

    def chain(self) -> Iterator["Stem"]:
        """It and its parents, the first tokens last."""
        stem: Stem | None = self
        while stem is not None:
            yield stem
            stem = stem.parent

    def split(self, at: int) -> "Stem":
        """Leave the tokens before `at` to a new parent, and return it."""
        length = at - self.begin
        self.parent = Stem(self.begin, at, _cut(self.rows, 0, length), self.parent)
        self.rows = _cut(self.rows, length, self.end - self.begin)
        self.begin = at
        return self.parent


@dataclass(eq=False)
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
        """Share the rows of the first `common` tokens with another cache, which holds them too."""
        if self.stem is not None or not self.paths or self.paths != other.paths:
            return
        stem = other.stem_of(common)
        if stem is not None:
            self._keep_after(stem)

    def stem_of(self, tokens: int) -> Stem | None:
        """The stem that ends with its first `tokens` tokens, or at most LEAST before them."""
        if tokens >= self.begin + LEAST:
            rows = _cut(self._rows(), 0, tokens - self.begin)
            self._keep_after(Stem(self.begin, tokens, rows, self.stem))
            return self.stem
        for stem in self.stem.chain() if self.stem else ():
            if tokens >= stem.end:
                return stem
            if tokens >= stem.begin + LEAST:
                return stem.split(tokens)
        return None

    def whole(self, cache: list[Any]) -> list[Any]:
        """Give a copy of its cache all rows."""
        if self.stem is None:
            return cache
        stems = [*reversed(list(self.stem.chain()))]
        for path, one in leaves(cache):
            if path in self.paths:
                parts = [*(stem.rows[path] for stem in stems), (one.keys, one.values)]
                keys, values = zip(*parts, strict=True)
                one.keys, one.values = (
                    mx.concatenate(list(part), axis=-2) for part in (keys, values)
                )
        return cache

    def release(self) -> None:
        """Hold no arrays any more. The size stays that of what a write may still hold."""
        self.cache, self.stem = [], None

    def _keep_after(self, stem: Stem) -> None:
        """Keep only the rows after a stem, which holds those before them."""
        rest = _cut(self._rows(), stem.end - self.begin, self.tokens - self.begin)
        for path, one in leaves(self.cache):
            if path in self.paths:
                one.keys, one.values = rest[path]
        self.stem, self.bytes = stem, _size(self.cache)

    def _rows(self) -> Rows:
        return {p: (one.keys, one.values) for p, one in leaves(self.cache) if p in self.paths}


def total(caches: Sequence[Kept]) -> int:
    """Size of caches and of their stems, each counted once [bytes]. Thread-safe."""
    stems = {stem for one in caches if one.stem for stem in one.stem.chain()}
    return sum(one.bytes for one in caches) + sum(stem.bytes for stem in stems)


def _has_rows(cache: Any, tokens: int) -> bool:
    return type(cache) in KINDS and cache.keys is not None and cache.offset == tokens


def _cut(rows: Rows, begin: int, end: int) -> Rows:
    """Copy some rows, so that they do not hold the others. The copies are started, not awaited."""
    wanted = mx.arange(begin, end)

    def copy(array: Any) -> Any:  # a slice of one head would be a view of all rows
        return mx.take(array, wanted, axis=-2)

    cut = {path: (copy(keys), copy(values)) for path, (keys, values) in rows.items()}
    mx.async_eval(list(cut.values()))  # type: ignore[no-untyped-call]
    return cut


def _size(cache: Sequence[Any]) -> int:
    return sum(int(one.nbytes) for one in cache)
