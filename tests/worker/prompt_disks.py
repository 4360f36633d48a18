"""Prompts on disk for tests: caches of each kind, written and read."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    ChunkedKVCache,
    ConcatenateKVCache,
    KVCache,
    QuantizedKVCache,
    RotatingKVCache,
)

from reconciler.core.prompt_store import PromptStore
from reconciler.worker import quantized_cache
from reconciler.worker.disk import directory, layout
from reconciler.worker.disk import files as prompt_files
from reconciler.worker.disk.names import BLOCK
from reconciler.worker.disk.scope import Scope
from reconciler.worker.disk.store import PromptDisk

SCOPE = {"fingerprint": "a"}


LONG = 3 * BLOCK + 20


MORE = [1, 2, 3]


GB = 10**9


def store(tmp_path: Path, most: int = GB) -> PromptStore:
    return PromptStore(str(tmp_path / "prompts"), "0" * 16, "/models/a", "a", most)


def fill(cache: Any, length: int = LONG, width: int = 64, kind: Any = mx.float32) -> Any:
    """Put rows into a cache, in steps of a prefill and of generation."""
    for begin, end in [(0, length - 1), (length - 1, length)]:
        rows = mx.arange(begin * width, end * width).reshape(1, 1, end - begin, width)
        cache.update_and_fetch(rows.astype(kind), (rows + 0.5).astype(kind))
    return cache


def recurrent() -> ArraysCache:
    cache = ArraysCache(2)
    cache[0], cache[1] = mx.full((1, 3), 7.0), mx.full((1, 2, 2), 9, dtype=mx.int32)
    return cache


def slid() -> ChunkedKVCache:
    cache = fill(ChunkedKVCache(BLOCK))
    cache.maybe_trim_front()
    return cache


KINDS: dict[str, tuple[Callable[[], list[Any]], Callable[[], list[Any]]]] = {
    "plain": (lambda: [KVCache(), KVCache()], lambda: [fill(KVCache()), fill(KVCache())]),
    "bfloat16": (lambda: [KVCache()], lambda: [fill(KVCache(), kind=mx.bfloat16)]),
    "quantized": (lambda: [QuantizedKVCache(32, 4)], lambda: [fill(QuantizedKVCache(32, 4))]),
    "quantized for batches": (
        lambda: [quantized_cache.QuantizedKVCache(8)],
        lambda: [fill(quantized_cache.QuantizedKVCache(8))],
    ),
    "concatenated": (lambda: [ConcatenateKVCache()], lambda: [fill(ConcatenateKVCache())]),
    "sliding": (
        lambda: [RotatingKVCache(BLOCK, 4), KVCache()],
        lambda: [fill(RotatingKVCache(BLOCK, 4)), fill(KVCache())],
    ),
    "not slid yet": (lambda: [RotatingKVCache(4096)], lambda: [fill(RotatingKVCache(4096))]),
    "chunked": (lambda: [ChunkedKVCache(BLOCK)], lambda: [slid()]),
    "recurrent": (lambda: [ArraysCache(2)], lambda: [recurrent()]),
    "hybrid": (lambda: [ArraysCache(2), KVCache()], lambda: [recurrent(), fill(KVCache())]),
    "list": (
        lambda: [CacheList(KVCache(), ArraysCache(2))],
        lambda: [CacheList(fill(KVCache()), recurrent())],
    ),
    "list of rows": (
        lambda: [CacheList(KVCache(), KVCache())],
        lambda: [CacheList(fill(KVCache()), fill(KVCache(), width=8))],
    ),
    "unused": (lambda: [KVCache(), KVCache()], lambda: [KVCache(), fill(KVCache())]),
}
"""Empty and filled caches of each kind."""


EMPTY, FILLED = KINDS["plain"]


def scope(disk: PromptDisk, make: Any = EMPTY, **more: Any) -> Scope:
    return Scope(disk, {**SCOPE, **more}, make)


def save(disk: PromptDisk, tokens: Sequence[int], cache: list[Any], **more: Any) -> None:
    scope(disk, **more).save(np.asarray(tokens), cache)
    disk.flush(60)


def fetched(scope: Scope, tokens: Sequence[int], known: int = 0) -> tuple[list[Any] | None, int]:
    """The cache that is read for a prompt, and its tokens."""
    results: SimpleQueue[Any] = SimpleQueue()
    if scope.fetch(tokens, known, results.put) is None:
        return None, 0
    stored = results.get(timeout=60)
    return (None, 0) if stored is None else (layout.join(scope.make(), stored), stored.tokens)


def arrays(cache: Sequence[Any]) -> list[tuple[str, Any]]:
    """State of all layers; of rows only those in use."""
    found = []
    for path, one in layout.leaves(cache):
        if isinstance(one, layout.ROW_KINDS) and one.keys is not None:
            rows = tree_flatten([one.keys, one.values])
            found += [(f"{path}.{n}", array[..., : one.offset, :].tolist()) for n, array in rows]
            found.append((path, one.offset))
        else:
            state = tree_flatten(one.state)
            plain = [(n, x.tolist() if isinstance(x, mx.array) else x) for n, x in state]
            found += [(f"{path}.{n}", x) for n, x in plain]
    return found


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "prompts" / ("0" * 16)).glob("*.safetensors"))


def size(tmp_path: Path) -> int:
    return sum(file.stat().st_size for file in files(tmp_path))


class Gate:
    """Lets writes wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        original = prompt_files.write

        def write(*arguments: Any) -> int:
            self.entered.set()
            assert self.open.wait(60)
            return original(*arguments)

        monkeypatch.setattr(directory, "write", write)
