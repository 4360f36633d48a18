"""KV caches that are kept of prompts, for prompts that begin alike.

A cache is found by its tokens. One that can be rewound (plain KV caches; a sliding window that did
not slide yet) serves any prompt that shares its beginning. One that cannot (sliding windows,
recurrent states) serves prompts that begin with all of its tokens. So caches are kept at the places
of a prompt where later ones are likely to differ: `segments.py` names them.

Least worth keeping is what a longer prompt has taken further, then what was used longest ago.
mlx-lm's `LRUPromptCache` holds a dictionary for each token, which nobody counts, and does not note
that a cache was used.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import CacheList, ChunkedKVCache, RotatingKVCache

MOST = 64
"""Caches that are kept, whatever their size."""


@dataclass(eq=False)
class _Entry:
    tokens: npt.NDArray[np.int64]
    cache: list[Any]
    bytes: int
    used: int
    root: bool
    """True if prompts are likely to part here: the end of the system turns."""
    extended: bool = False
    """True if a longer cache that begins with these tokens was kept later."""

    @property
    def worth(self) -> tuple[bool, int]:
        """The least goes first."""
        return not self.extended, self.used


class PromptCache:
    """Caches by their tokens. Used on the MLX thread only."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._entries: list[_Entry] = []
        self._uses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Size of all that is kept. Also for other threads."""
        return sum(entry.bytes for entry in self._entries.copy())

    def find(self, tokens: Sequence[int]) -> tuple[list[Any] | None, int]:
        """A copy of the cache that holds most of a prompt's beginning, and how many tokens it is.

        Never all of the prompt: a generator needs a token to begin with.
        """
        wanted = np.asarray(tokens[:-1], dtype=np.int64)
        best, known, roots = None, 0, []
        for entry in self._entries:
            common = _common(entry.tokens, wanted)
            if entry.root and common == len(entry.tokens):
                roots.append(entry)
            if common > known and (common == len(entry.tokens) or rewindable(entry.cache)):
                best, known = entry, common
        if best is None:
            return None, 0
        for entry in (best, *roots):  # a conversation keeps what others may begin with
            self._use(entry)
        cache = copy.deepcopy(best.cache)
        if (surplus := len(best.tokens) - known) > 0:
            for one in cache:
                one.trim(surplus)
        return cache, known

    def keep(self, tokens: Sequence[int], cache: list[Any], *, root: bool = False) -> None:
        """Keep a cache that nobody changes from now on, and that holds just these tokens."""
        held = np.asarray(tokens, dtype=np.int64)
        can_rewind = rewindable(cache)
        for entry in list(self._entries):
            common = _common(entry.tokens, held)
            if common == len(held) and (
                len(entry.tokens) == common or (can_rewind and rewindable(entry.cache))
            ):
                self._use(entry)  # it serves the same prompts
                entry.root |= root
                return
            if common == len(entry.tokens):
                if can_rewind:
                    self._entries.remove(entry)
                else:
                    entry.extended = not entry.root
        size = sum(int(one.nbytes) for one in cache)
        entry = _Entry(held, cache, size, 0, root)
        self._use(entry)
        self._entries.append(entry)
        self.trim(None)

    def trim(self, nbytes: int | None) -> None:
        """Let go of caches until the rest fits in so many bytes."""
        while len(self._entries) > self._most or (
            nbytes is not None and self._entries and self.nbytes > nbytes
        ):
            self._entries.remove(min(self._entries, key=lambda entry: entry.worth))

    def _use(self, entry: _Entry) -> None:
        self._uses += 1
        entry.used = self._uses


def rewindable(cache: list[Any]) -> bool:
    """Whether a cache can go back to each of its earlier tokens."""
    return bool(cache) and all(_rewindable(one) for one in cache)


def _rewindable(cache: Any) -> bool:
    if isinstance(cache, CacheList):
        return all(_rewindable(inner) for inner in cache.caches)
    if isinstance(cache, ChunkedKVCache):  # says so even where it let go of tokens
        return bool(cache.start_position == 0)
    return bool(cache.is_trimmable())


def always_rewindable(cache: list[Any]) -> bool:
    """Whether caches of this kind can go back, however long they are."""
    return bool(cache) and all(_slides_not(one) and _rewindable(one) for one in cache)


def _slides_not(cache: Any) -> bool:
    if isinstance(cache, CacheList):
        return all(_slides_not(inner) for inner in cache.caches)
    return not isinstance(cache, (RotatingKVCache, ChunkedKVCache))


def _common(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> int:
    """How many tokens they share from the beginning."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length
