"""Test which caches are kept, found and evicted."""

import weakref
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import ArraysCache, CacheList, ChunkedKVCache, KVCache, RotatingKVCache

from reconciler.worker.prompt_cache import PromptCache, always_rewindable, rewindable

BYTES = 2 * 4
"""Bytes per token: a key and a value of one float32."""


def plain(length: int) -> list[Any]:
    """A rewindable cache."""
    return [filled(KVCache(), length)]


def fixed(length: int) -> list[Any]:
    """A cache that is not rewindable."""
    recurrent = ArraysCache(1)
    recurrent[0] = mx.zeros((1, 1))
    return [filled(KVCache(), length), recurrent]


def filled(cache: Any, length: int) -> Any:
    part = mx.arange(length, dtype=mx.float32).reshape(1, 1, length, 1)
    cache.update_and_fetch(part, part)
    return cache


def known(cache: PromptCache, prompt: Sequence[int]) -> int:
    return cache.find(prompt)[1]


def test_a_rewindable_cache_serves_any_prompt_with_a_common_prefix() -> None:
    cache = PromptCache()
    cache.keep([1, 2, 3, 4], plain(4))
    found, tokens = cache.find([1, 2, 9])
    assert (tokens, found and found[0].offset) == (2, 2)
    assert known(cache, [9, 9]) == 0


def test_another_cache_serves_only_prompts_that_begin_with_all_of_it() -> None:
    cache = PromptCache()
    cache.keep([1, 2, 3, 4], fixed(4))
    assert [known(cache, [1, 2, 9]), known(cache, [1, 2, 3, 4, 9])] == [0, 4]


@pytest.mark.parametrize(("kind", "expected"), [(plain, 3), (fixed, 0)])
def test_the_last_token_of_a_prompt_is_never_taken_from_a_cache(kind: Any, expected: int) -> None:
    cache = PromptCache()
    cache.keep([1, 2, 3, 4], kind(4))
    assert known(cache, [1, 2, 3, 4]) == expected


def test_a_found_cache_is_a_copy() -> None:
    cache = PromptCache()
    cache.keep([1, 2, 3], plain(3))
    found, _ = cache.find([1, 2, 3, 4])
    assert found is not None
    filled(found[0], 5)
    again, tokens = cache.find([1, 2, 3, 4])
    assert (tokens, again and again[0].offset) == (3, 3)


def test_a_longer_rewindable_cache_replaces_shorter_ones() -> None:
    cache = PromptCache()
    for length in (2, 4, 3):
        cache.keep(range(length), plain(length))
    assert len(cache) == 1
    assert known(cache, range(9)) == 4


def test_superseded_turns_are_evicted_first_and_system_turns_last() -> None:
    cache = PromptCache()
    cache.keep(range(2), fixed(2), root=True)
    cache.keep(range(4), fixed(4))
    cache.keep(range(6), fixed(6))
    cache.keep([7, 8], fixed(2))
    gone = []
    while len(cache):
        cache.trim(cache.nbytes - 1)
        gone.append([known(cache, [*range(6), 9]), known(cache, [7, 8, 9])])
    assert gone == [[6, 2], [2, 2], [0, 2], [0, 0]]


class Writing:
    """A write that is over once it ends."""

    over = False

    def end(self) -> None:
        self.over = True


@pytest.mark.parametrize("most", [1, 9])
def test_a_cache_that_serves_no_more_prompts_is_released(most: int) -> None:
    """It was held, without being counted, until the next one was kept."""
    writes: list[Writing] = []

    def save(_tokens: Any, _cache: Any) -> Writing:
        writes.append(Writing())
        return writes[-1]

    cache = PromptCache(most, save)
    first = plain(2)
    gone = weakref.ref(first[0])
    cache.keep([1, 2], first)
    del first
    cache.keep([1, 2, 3] if most > 1 else [4, 5, 6], plain(3))
    both = cache.nbytes
    writes[0].end()
    assert cache.nbytes == both // 2  # it counts until it is written
    assert gone() is None


def test_the_least_recently_used_cache_is_evicted_first() -> None:
    cache = PromptCache(most=2)
    cache.keep([1, 2], fixed(2))
    cache.keep([3, 4], fixed(2))
    assert known(cache, [1, 2, 9]) == 2
    cache.keep([5, 6], fixed(2))
    assert [known(cache, [n, n + 1, 9]) for n in (1, 3, 5)] == [2, 0, 2]


def test_caches_are_counted_with_their_actual_size() -> None:
    cache = PromptCache()
    cache.keep([1, 2], [filled(RotatingKVCache(8), 2)])
    assert cache.nbytes == 2 * BYTES
    cache.keep([1, 2], [filled(RotatingKVCache(8), 2)])
    assert (len(cache), cache.nbytes) == (1, 2 * BYTES)


def slid() -> ChunkedKVCache:
    cache = filled(ChunkedKVCache(2), 4)
    cache.maybe_trim_front()
    return cache


@pytest.mark.parametrize(
    ("make", "now", "always"),
    [
        (lambda: filled(KVCache(), 4), True, True),
        (lambda: filled(RotatingKVCache(8), 4), True, False),
        (lambda: filled(RotatingKVCache(4), 4), False, False),
        (lambda: filled(ChunkedKVCache(8), 4), True, False),
        (slid, False, False),
        (lambda: CacheList(filled(KVCache(), 4), filled(RotatingKVCache(4), 4)), False, False),
        (lambda: CacheList(filled(KVCache(), 4)), True, True),
        (lambda: ArraysCache(1), False, False),
    ],
)
def test_rewindable_caches_are_recognised(make: Any, now: bool, always: bool) -> None:
    assert (rewindable([make()]), always_rewindable([make()])) == (now, always)
