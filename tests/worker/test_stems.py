"""Test that caches which begin alike store their common rows once, and are found whole."""

import gc
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache
from mlx_lm.utils import load_model

from reconciler.worker import stems
from reconciler.worker.prompt_cache import PromptCache
from reconciler.worker.quantized_cache import QuantizedKVCache
from reconciler.worker.session import Session
from tests import mlx_memory
from tests.worker.test_prompt_cache import Writing
from tests.worker.test_session import CONFIG

HEADS, WIDTH = 2, 64
ROW = 2 * 4 * HEADS * WIDTH
"""Bytes of a token: a key and a value of float32."""

COMMON = list(range(600))

SLACK = 2 * 16384
"""Bytes that an array of keys and one of values may hold beyond their size, as MLX's
`contiguous` permits."""


def rows(tokens: list[int], sign: int = 1, heads: int = HEADS) -> Any:
    """Rows that differ by token and by position."""
    values = [sign * (token + 10_000 * place) for place, token in enumerate(tokens)]
    return mx.array(values, mx.float32)[None, None, :, None] * mx.ones((1, heads, 1, WIDTH))


def filled(cache: Any, tokens: list[int], heads: int = HEADS) -> Any:
    cache.update_and_fetch(rows(tokens, heads=heads), rows(tokens, -1, heads))
    return cache


def plain(tokens: list[int]) -> list[Any]:
    return [filled(KVCache(), tokens), CacheList(filled(KVCache(), tokens))]


def windowed(tokens: list[int]) -> list[Any]:
    return [filled(KVCache(), tokens), filled(RotatingKVCache(8), tokens)]


def held(cache: Any) -> list[Any]:
    """Rows of a plain cache."""
    return [np.array(array[0, 0, :, 0]) for array in cache.keys_and_values()]


def expected(tokens: list[int]) -> list[Any]:
    return [np.array(rows(tokens, sign)[0, 0, :, 0]) for sign in (1, -1)]


def check(cache: PromptCache, tokens: list[int]) -> None:
    """The cache of these tokens is found, with all of its rows."""
    found, known = cache.find([*tokens, -1])
    assert found is not None
    assert known == len(tokens)
    for one in (found[0], *(found[1].caches if isinstance(found[1], CacheList) else ())):
        assert one.offset == len(tokens)
        np.testing.assert_array_equal(held(one), expected(tokens))


def test_conversations_that_begin_alike_store_it_once() -> None:
    """Each held a copy of the system prompt."""
    cache = PromptCache()
    tokens = [[*COMMON, *[1000 + n] * 50] for n in range(5)]
    for one in tokens:
        cache.keep(one, plain(one))
    assert cache.nbytes == 2 * ROW * (len(COMMON) + 5 * 50)
    for one in tokens:
        check(cache, one)
    found, known = cache.find([*COMMON[:400], -1])  # within the stem
    assert known == 400
    assert found is not None
    np.testing.assert_array_equal(held(found[0]), expected(COMMON[:400]))


@pytest.mark.parametrize("heads", [1, HEADS])
def test_what_is_stored_once_takes_memory_once(heads: int) -> None:
    """A slice of the rows of one head is a view, which would hold all of them."""
    cache = PromptCache()
    gc.collect()
    mx.synchronize()
    before = mx.get_active_memory()
    for n in range(4):
        tokens = [*COMMON, *[1000 + n] * 50]
        cache.keep(tokens, [filled(KVCache(), tokens, heads)])
    mx.synchronize()
    used = mx.get_active_memory() - before
    assert cache.nbytes <= used < 1.2 * cache.nbytes
    assert cache.nbytes == ROW // HEADS * heads * (len(COMMON) + 4 * 50)


def test_a_stem_lives_as_long_as_a_cache_needs_it() -> None:
    cache = PromptCache()
    first, second = ([*COMMON, n, n, n] for n in (1000, 1001))
    cache.keep(first, plain(first))
    cache.keep(second, plain(second))
    cache.trim(cache.nbytes - 1)
    assert len(cache) == 1
    check(cache, second)
    assert cache.nbytes == 2 * ROW * len(second)
    cache.trim(0)
    assert (len(cache), cache.nbytes) == (0, 0)


def test_caches_that_cannot_be_rewound_share_the_rows_of_a_system_prompt() -> None:
    cache = PromptCache()
    cache.keep(COMMON, windowed(COMMON), root=True)
    tokens = [[*COMMON, *[1000 + n] * 300] for n in range(3)]
    for one in tokens:
        cache.keep(one, windowed(one))
    windows = sum(windowed(one)[1].nbytes for one in (COMMON, *tokens))
    assert cache.nbytes == ROW * (len(COMMON) + 3 * 300) + windows
    for one in (COMMON, *tokens):
        check(cache, one)


def test_quantised_rows_are_shared() -> None:
    cache = PromptCache()
    tokens = [[*COMMON, *[1000 + n] * 50] for n in range(2)]
    for one in tokens:
        cache.keep(one, [filled(QuantizedKVCache(8), one)])
    row = 2 * HEADS * (WIDTH + 8)  # with a scale and a bias of float32 for each 64 values
    assert cache.nbytes == row * (len(COMMON) + 2 * 50)
    for one in tokens:
        found, _ = cache.find([*one, -1])
        assert found is not None
        quantised = filled(QuantizedKVCache(8), one)
        for arrays, others in zip(
            found[0].keys_and_values(), quantised.keys_and_values(), strict=True
        ):
            assert all(map(mx.array_equal, arrays, others))


def test_a_cache_is_shared_once_it_is_written() -> None:
    """A write holds the whole cache, so that copies of parts would come on top."""
    writes: list[Writing] = []

    def save(_tokens: Any, _cache: Any) -> Writing:
        writes.append(Writing())
        return writes[-1]

    cache = PromptCache(save=save)
    tokens = [[*COMMON, *[1000 + n] * 50] for n in range(2)]
    whole = 0
    for one in tokens:
        kept = plain(one)
        whole += sum(layer.nbytes for layer in kept)
        cache.keep(one, kept)
    assert cache.nbytes == whole
    for write in writes:
        write.end()
    cache.trim(None)
    assert cache.nbytes == 2 * ROW * (len(COMMON) + 2 * 50)


def test_an_error_while_rows_are_divided_leaves_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer would have other rows than the next, and later answers would be wrong."""
    cache, done = PromptCache(), []
    part = stems._part

    def failing(*args: Any) -> Any:
        done.append(args)
        if len(done) == 3:
            raise RuntimeError("out of memory")
        return part(*args)

    monkeypatch.setattr(stems, "_part", failing)
    for n in range(2):
        tokens = [*COMMON, n]
        cache.keep(tokens, plain(tokens))
    assert (len(cache), cache.nbytes, len(done)) == (0, 0, 3)


def test_a_prompt_is_computed_if_the_cached_one_cannot_be_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request failed."""
    cache = PromptCache()
    cache.keep(COMMON, plain(COMMON))

    def failing(*_: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(stems, "_part", failing)
    assert cache.find([*COMMON[:400], -1]) == (None, 0)
    assert (len(cache), cache.nbytes) == (0, 0)


@pytest.mark.parametrize("large", [True, False])
def test_a_divided_cache_is_divided_again(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stems, "LARGE", 0 if large else 10**12)
    cache = PromptCache()
    tokens = [[*COMMON, 1], [*COMMON, 2], [*COMMON[:300], 3], [*COMMON, 1, *COMMON[:300], 4]]
    for one in tokens:
        cache.keep(one, plain(one))
    for one in tokens[1:]:
        check(cache, one)
    assert cache.nbytes == 2 * ROW * (len(COMMON) + 3 + 300 + 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=5),
        min_size=1,
        max_size=7,
    ),
    st.booleans(),
)
def test_any_tree_of_prompts_is_found_whole(
    drawn: list[list[tuple[int, int]]], rewinds: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stems, "LEAST", 3)
        cache = PromptCache()
        make = plain if rewinds else windowed
        prompts = [[t for t, count in one for _ in range(count)] for one in drawn]
        for one in prompts:
            cache.keep(one, make(one))
        for one in prompts:
            check(cache, one)
        kept = [entry.kept for entry in cache._entries]
        whole = [make(entry.tokens.tolist()) for entry in cache._entries]
        assert cache.nbytes <= sum(layer.nbytes for layers in whole for layer in layers)
        for cut in kept:
            ends = [(stem.begin, stem.end) for stem in (stems.chain(cut.stem))]
            assert all(begin == end for (begin, _), (_, end) in pairwise(ends))
            assert not ends or (ends[-1][0], ends[0][1]) == (0, cut.begin)


@pytest.mark.parametrize("name", ["tiny/llama", "openai/gpt-oss-20b"])
def test_conversations_of_a_session_share_their_system_prompt(models: Path, name: str) -> None:
    model, _ = load_model(models / name)
    system = [7 + n * n % 290 for n in range(400)]
    prompts = [[*system, *([20 + n] * 9)] for n in range(4)]
    fresh = [Session(model, CONFIG).generate(prompt, 8) for prompt in prompts]
    session = Session(model, CONFIG)
    first = session.generate(prompts[0], 8)
    alone = session.kept_bytes
    assert [first, *(session.generate(prompt, 8) for prompt in prompts[1:])] == fresh
    assert session.kept_bytes < len(prompts) * alone / 2
    assert [session.generate(prompt, 8) for prompt in prompts] == fresh  # from what is shared


def test_a_short_prompt_reads_no_more_of_a_long_cache_than_it_begins_with() -> None:
    """All rows of a divided cache were copied, then all but the first ones were dropped."""
    cache = PromptCache()
    tokens = [[*COMMON, *[1000 + n] * 50] for n in range(2)]
    for one in tokens:
        cache.keep(one, plain(one))
    for known in (300, len(COMMON), len(COMMON) + 20):
        found, _ = cache.find([*tokens[0][:known], -1])
        assert found is not None
        assert sum(one.nbytes for one in found) == 2 * ROW * known
        for one in (found[0], *found[1].caches):
            np.testing.assert_array_equal(held(one), expected(tokens[0][:known]))


@pytest.mark.parametrize("others", [0, 1])
def test_the_copy_for_a_short_prompt_does_not_hold_the_long_cache(others: int) -> None:
    """The rows of an evicted cache were held, uncounted, until the request's prefill began."""
    cache, before = PromptCache(), mlx_memory.active()
    for n in range(1 + others):
        tokens = [*COMMON, *[1000 + n] * 3000]
        whole = filled(KVCache(), tokens)
        mx.eval(whole.state)
        cache.keep(tokens, [whole])
        del whole
    found, known = cache.find([*COMMON[:400], -1])
    cache.trim(0)
    assert (known, cache.nbytes) == (400, 0)
    assert mlx_memory.active() - before <= 400 * ROW + SLACK
    assert found is not None
    np.testing.assert_array_equal(held(found[0]), expected(COMMON[:400]))


def test_a_cache_that_remains_in_use_does_not_get_ever_more_stems() -> None:
    """It was divided at each position at which another one diverged, and took longer to copy."""
    cache = PromptCache()
    long = list(range(1000))
    cache.keep(long, [filled(KVCache(), long)])
    for place in reversed(range(500, 1000)):
        cache.find([*long, -1])
        other = [*long[:place], 2000 + place]
        cache.keep(other, [filled(KVCache(), other)])
    (kept,) = (entry.kept for entry in cache._entries if len(entry.tokens) == len(long))
    assert len(list(stems.chain(kept.stem))) <= stems.SHORT + len(long) // stems.LEAST
    for place in (500, 501, 530):
        check_one(cache, [*long[:place], 2000 + place])
    check_one(cache, long)


def check_one(cache: PromptCache, tokens: list[int]) -> None:
    found, known = cache.find([*tokens, -1])
    assert found is not None
    assert known == len(tokens)
    np.testing.assert_array_equal(held(found[0]), expected(tokens))


def test_a_cache_is_counted_while_another_thread_releases_it() -> None:
    """Its stem was read twice, and the second time it could be gone: `/pulse` failed."""

    class Released(stems.Kept):
        reads = 0

        @property
        def stem(self) -> Any:
            self.reads += 1
            return stems.Stem(0, 300, {}, None) if self.reads == 1 else None

        @stem.setter
        def stem(self, value: Any) -> None:
            pass

    one = Released(plain(COMMON), len(COMMON))
    one.reads = 0
    assert stems.total([one]) == one.bytes
