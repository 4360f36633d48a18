"""Test KV caches on disk: what comes back, and for which prompts."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    KVCache,
    RotatingKVCache,
)

from reconciler.worker.disk import layout
from reconciler.worker.disk.names import BLOCK
from reconciler.worker.disk.scope import LEAST
from reconciler.worker.disk.store import PromptDisk
from tests.worker.prompt_disks import (
    FILLED,
    KINDS,
    LONG,
    MORE,
    arrays,
    fetched,
    files,
    fill,
    save,
    scope,
    store,
)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_of_any_kind_comes_back_unchanged(tmp_path: Path, kind: str) -> None:
    make, filled = KINDS[kind]
    tokens = list(range(LONG))
    save(PromptDisk(store(tmp_path)), tokens, filled(), make=make)
    cache, known = fetched(scope(PromptDisk(store(tmp_path)), make), tokens + MORE)
    assert known == LONG
    assert cache is not None
    assert [type(one) for one in cache] == [type(one) for one in make()]
    assert arrays(cache) == arrays(filled())
    fill_all = [one for _, one in layout.leaves(cache) if not isinstance(one, ArraysCache)]
    assert all(one.empty() or one.size() or one.offset for one in fill_all)


def test_a_continued_cache_equals_one_that_was_never_on_disk(tmp_path: Path) -> None:
    save(PromptDisk(store(tmp_path)), range(LONG), FILLED())
    cache, _ = fetched(scope(PromptDisk(store(tmp_path))), [*range(LONG), *MORE])
    assert cache is not None
    kept = FILLED()
    rows = mx.ones((1, 1, 5, 64))
    for one, other in zip(cache, kept, strict=True):
        assert all(
            map(
                mx.array_equal, one.update_and_fetch(rows, rows), other.update_and_fetch(rows, rows)
            )
        )


def test_rows_serve_any_prompt_with_a_common_prefix_and_other_caches_only_their_own(
    tmp_path: Path,
) -> None:
    disk = PromptDisk(store(tmp_path))
    parting = [*range(3 * BLOCK - 5), *[9] * 50]
    for kind, expected in (("plain", 2 * BLOCK), ("hybrid", 0)):
        make, filled = KINDS[kind]
        save(disk, range(LONG), filled(), make=make)
        assert fetched(scope(disk, make), parting)[1] == expected


def test_the_last_token_of_a_prompt_is_never_read(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk), range(LONG))[1] == 3 * BLOCK
    assert fetched(scope(disk), range(LONG + 1))[1] == LONG


def test_prompts_are_not_read_for_a_few_tokens(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    for known, expected in ((0, LONG), (LONG - LEAST, LONG), (LONG - LEAST + 1, 0)):
        assert fetched(scope(disk), range(LONG + 9), known)[1] == expected
    short = PromptDisk(store(tmp_path / "short"))
    save(short, range(LEAST - 1), [fill(KVCache(), LEAST - 1) for _ in range(2)])
    assert not files(tmp_path / "short")


def test_a_shared_prefix_is_stored_once(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    before = files(tmp_path)
    for conversation in range(3):
        other = [*range(3 * BLOCK), *[conversation] * 20]
        save(disk, other, FILLED())
    assert len(files(tmp_path)) == len(before) + 3  # one tail each


@pytest.mark.parametrize(
    "other", [{"fingerprint": "b"}, {"settings": {"num_experts": 2}}, {"versions": ["0.33"]}]
)
def test_another_scope_finds_nothing(tmp_path: Path, other: dict[str, Any]) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk, **other), range(LONG + 9)) == (None, 0)


def test_another_kind_of_cache_finds_nothing_and_is_not_saved(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk, lambda: [KVCache(), RotatingKVCache(8)]), range(LONG + 9))[1] == 0
    before = files(tmp_path)
    save(disk, [5] * LONG, [fill(KVCache()), fill(RotatingKVCache(8))])
    assert files(tmp_path) == before
