"""Prompt cache: KV caches of earlier prompts, for prompts with the same prefix.

A cache is found by its tokens. A cache that can be rewound (a plain KV cache; a sliding window that
has not slid yet) serves any prompt that shares a prefix with it. A cache that cannot be rewound
(sliding windows, recurrent states) serves only prompts that begin with all of its tokens. So caches
are saved at the positions of a prompt where later prompts are likely to diverge; `segments.py`
determines them.

Conversations that begin alike store what they share once (`stems`).

Eviction order: first caches that a longer prompt has extended, then the least recently used.
A cache may also be written to disk (`disk/`). Until it is written, its memory counts, even if a
longer cache has replaced it; if the memory is needed, the write is cancelled.

mlx-lm's `LRUPromptCache` holds a dictionary per token, whose memory is not counted, and does not
record the use of a cache.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import CacheList, ChunkedKVCache, RotatingKVCache

from reconciler.worker import stems
from reconciler.worker.stems import Kept

MOST = 64
"""Maximum number of caches, regardless of their size."""


class Write(Protocol):
    """A write to disk that is queued or in progress."""

    @property
    def over(self) -> bool:
        """True if it holds no memory of the cache any more."""

    def end(self) -> None:
        """Release the cache's memory, whether it is written or not."""


Save = Callable[[npt.NDArray[np.int64], list[Any]], Write | None]
"""Starts to write a cache of these tokens to disk, or returns None."""


def not_saved(_tokens: npt.NDArray[np.int64], _cache: list[Any]) -> None:
    """A `Save` that writes nothing."""


@dataclass(eq=False)
class _Entry:
    tokens: npt.NDArray[np.int64]
    kept: Kept
    used: int
    root: bool
    """True if prompts are likely to diverge here: the end of the system turns."""
    extended: bool = False
    """True if a longer cache that begins with these tokens was saved later."""
    write: Write | None = None
    shared: bool = False
    """True if it shares its first rows, or may share them with later ones."""

    @property
    def cache(self) -> list[Any]:
        """The layers' caches, without shared rows."""
        return self.kept.cache

    @property
    def written(self) -> bool:
        """True if no write holds its memory."""
        return self.write is None or self.write.over

    @property
    def worth(self) -> tuple[bool, int]:
        """Sort key for eviction: the smallest is evicted first."""
        return not self.extended, self.used


class PromptCache:
    """Caches by their tokens. MLX thread only, except `nbytes`."""

    def __init__(self, most: int = MOST, save: Save = not_saved) -> None:
        self._most, self._save = most, save
        self._entries: list[_Entry] = []
        self._leaving: list[_Entry] = []
        """Caches that serve no more prompts and are still to be written."""
        self._uses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Size of all caches [bytes]. Thread-safe."""
        leaving = [one for one in self._leaving.copy() if not one.written]
        return stems.total([entry.kept for entry in (*self._entries.copy(), *leaving)])

    def longest(self, tokens: Sequence[int]) -> int:
        """Length of the prefix that `find` would return [tokens]."""
        return self._best(np.asarray(tokens[:-1], dtype=np.int64))[1]

    def find(self, tokens: Sequence[int]) -> tuple[list[Any] | None, int]:
        """Copy the cache with the longest prefix of a prompt; return it with the prefix's length.

        The prefix is shorter than the prompt: a generator needs a token to start with.
        """
        best, known, roots = self._best(np.asarray(tokens[:-1], dtype=np.int64))
        if best is None:
            return None, 0
        for entry in (best, *roots):  # a shared root stays in use with each conversation
            self._use(entry)
        cache = best.kept.whole(copy.deepcopy(best.cache))
        if (surplus := len(best.tokens) - known) > 0:
            for one in cache:
                one.trim(surplus)
        return cache, known

    def _best(self, wanted: npt.NDArray[np.int64]) -> tuple[_Entry | None, int, list[_Entry]]:
        """The entry with the longest prefix, the prefix's length, and the roots in it."""
        best, known, roots = None, 0, []
        for entry in self._entries:
            common = _common(entry.tokens, wanted)
            if entry.root and common == len(entry.tokens):
                roots.append(entry)
            if common > known and (common == len(entry.tokens) or rewindable(entry.cache)):
                best, known = entry, common
        return best, known, roots

    def keep(self, tokens: Sequence[int], cache: list[Any], *, root: bool = False) -> None:
        """Save a cache that holds exactly these tokens. The caller must not change it later."""
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
                    self._leave(entry)
                else:
                    entry.extended = not entry.root
        entry = _Entry(held, Kept(cache, len(held)), 0, root, write=self._save(held, cache))
        self._use(entry)
        self._entries.append(entry)
        self.trim(None)

    def trim(self, nbytes: int | None) -> None:
        """Evict caches until the rest fits in `nbytes`; None: any size."""
        self._share()
        while len(self._entries) > self._most:
            self._leave(min(self._entries, key=lambda entry: entry.worth))
        while nbytes is not None and self.nbytes > nbytes:
            self._evict()

    def _share(self) -> None:
        """Share the rows of new caches with those of others, once writes do not need them whole."""
        for entry in [one for one in self._entries if one.written and not one.shared]:
            entry.shared = True
            if len(entry.tokens) < stems.LEAST:
                continue
            others = [one for one in self._entries if one.shared and one is not entry]
            commons = [_common(one.tokens, entry.tokens) for one in others]
            if not commons:
                continue
            best = int(np.argmax(commons))
            try:
                entry.kept.share(others[best].kept, commons[best])
            except Exception:  # noqa: BLE001  no request needs cached prompts
                self.clear()
                return

    def clear(self) -> None:
        """Evict all caches."""
        while self._entries or self._leaving:
            self._evict()

    def _leave(self, entry: _Entry) -> None:
        """Serve no more prompts with a cache. From now on only its write holds its memory."""
        self._entries.remove(entry)
        entry.kept.release()
        self._leaving = [one for one in (*self._leaving, entry) if not one.written]

    def _evict(self) -> None:
        """Evict a cache that is only there to be written, else the one with the least worth."""
        entries = self._leaving or self._entries
        entry = min(entries, key=lambda entry: entry.worth)
        entries.remove(entry)
        if entry.write is not None:
            entry.write.end()

    def _use(self, entry: _Entry) -> None:
        self._uses += 1
        entry.used = self._uses


def rewindable(cache: list[Any]) -> bool:
    """True if a cache can be rewound to any of its tokens."""
    return bool(cache) and all(_rewindable(one) for one in cache)


def _rewindable(cache: Any) -> bool:
    if isinstance(cache, CacheList):
        return all(_rewindable(inner) for inner in cache.caches)
    if isinstance(cache, ChunkedKVCache):  # is_trimmable() is true even after it has dropped tokens
        return bool(cache.start_position == 0)
    return bool(cache.is_trimmable())


def always_rewindable(cache: list[Any]) -> bool:
    """True if caches of this kind can be rewound at any length."""
    return bool(cache) and all(_slides_not(one) and _rewindable(one) for one in cache)


def _slides_not(cache: Any) -> bool:
    if isinstance(cache, CacheList):
        return all(_slides_not(inner) for inner in cache.caches)
    return not isinstance(cache, (RotatingKVCache, ChunkedKVCache))


def _common(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> int:
    """Length of the common prefix [tokens]."""
    length = min(len(one), len(other))
    if not length:
        return 0
    different = one[:length] != other[:length]
    first = int(different.argmax())  # 0 too if none is different
    return first if different[first] else length
