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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from mlx_lm.models.cache import CacheList, ChunkedKVCache, RotatingKVCache

from reconciler.worker import stems
from reconciler.worker.stems import Kept

MOST = 64
"""Maximum number of caches, regardless of their size."""

HEAD = 32
"""Tokens that are compared with all caches at once."""

Tokens = npt.NDArray[np.int64]


class Write(Protocol):
    """A write to disk that is queued or in progress."""

    @property
    def over(self) -> bool:
        """True if it holds no memory of the cache any more."""

    def end(self) -> None:
        """Release the cache's memory, whether it is written or not."""


Save = Callable[[Tokens, list[Any]], Write | None]
"""Starts to write a cache of these tokens to disk, or returns None."""


def not_saved(_tokens: Tokens, _cache: list[Any]) -> None:
    """A `Save` that writes nothing."""


@dataclass(eq=False)
class _Entry:
    tokens: Tokens
    kept: Kept
    used: int
    root: bool
    """True if prompts are likely to diverge here: the end of the system turns."""
    extended: bool = False
    """True if a longer cache that begins with these tokens was saved later."""
    write: Write | None = None
    head: Tokens = field(init=False)
    """Its first tokens, padded."""

    def __post_init__(self) -> None:
        self.head = _head(self.tokens, -1)

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
        self._heads: Tokens | None = None
        """First tokens of all entries, of shape (entries, HEAD), padded; None: to be made."""
        self._alone: list[_Entry] = []
        """Entries that share no rows yet."""
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
        try:
            cache = best.kept.copy(known)
        except Exception:  # noqa: BLE001  no request needs cached prompts
            self.clear()
            return None, 0
        if (surplus := len(best.tokens) - known) > 0:
            for one in cache:
                one.trim(surplus)
        return cache, known

    def _best(self, wanted: Tokens) -> tuple[_Entry | None, int, list[_Entry]]:
        """The entry with the longest prefix, the prefix's length, and the roots in it."""
        best, known, roots = None, 0, []
        for entry, common in zip(self._entries, self._commons(wanted), strict=True):
            if entry.root and common == len(entry.tokens):
                roots.append(entry)
            if common > known and (common == len(entry.tokens) or rewindable(entry.cache)):
                best, known = entry, common
        return best, known, roots

    def keep(self, tokens: Sequence[int], cache: list[Any], *, root: bool = False) -> None:
        """Save a cache that holds exactly these tokens. The caller must not change it later."""
        held = np.asarray(tokens, dtype=np.int64)
        can_rewind = rewindable(cache)
        for entry, common in zip(self._entries.copy(), self._commons(held), strict=True):
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
        self._alone.append(entry)
        self._heads = None
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
        for entry in [one for one in self._alone if one.written]:
            self._alone.remove(entry)
            if len(entry.tokens) < stems.LEAST:
                continue
            best, known = None, 0
            for other, common in zip(self._entries, self._commons(entry.tokens), strict=True):
                if common > known and other is not entry and other not in self._alone:
                    best, known = other, common
            try:
                if best is not None:
                    entry.kept.share(best.kept, known)
            except Exception:  # noqa: BLE001  no request needs cached prompts
                self.clear()
                return

    def _commons(self, wanted: Tokens) -> list[int]:
        """Length of the prefix that each entry has in common with these tokens."""
        if not self._entries:
            return []
        if self._heads is None:
            self._heads = np.stack([entry.head for entry in self._entries])
        different = self._heads != _head(wanted, -2)
        firsts, equal = different.argmax(axis=1).tolist(), (~different.any(axis=1)).tolist()
        return [
            _common(entry.tokens, wanted) if same else first
            for entry, first, same in zip(self._entries, firsts, equal, strict=True)
        ]

    def clear(self) -> None:
        """Evict all caches."""
        while self._entries or self._leaving:
            self._evict()

    def _leave(self, entry: _Entry) -> None:
        """Serve no more prompts with a cache. From now on only its write holds its memory."""
        self._remove(self._entries, entry)
        entry.kept.release()
        self._leaving = [one for one in (*self._leaving, entry) if not one.written]

    def _evict(self) -> None:
        """Evict a cache that is only there to be written, else the one with the least worth."""
        entries = self._leaving or self._entries
        entry = min(entries, key=lambda entry: entry.worth)
        self._remove(entries, entry)
        if entry.write is not None:
            entry.write.end()

    def _remove(self, entries: list[_Entry], entry: _Entry) -> None:
        entries.remove(entry)
        self._heads = None
        if entry in self._alone:
            self._alone.remove(entry)

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


def _head(tokens: Tokens, padding: int) -> Tokens:
    """The first HEAD tokens. Paddings differ from each other and from all tokens."""
    return np.array([*tokens[:HEAD].tolist(), *[padding] * (HEAD - len(tokens))], np.int64)


def _common(one: Tokens, other: Tokens) -> int:
    """Length of the common prefix [tokens]."""
    length = min(len(one), len(other))
    if not length:
        return 0
    different = one[:length] != other[:length]
    first = int(different.argmax())  # 0 too if none is different
    return first if different[first] else length
