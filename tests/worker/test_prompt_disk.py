"""Test KV caches on disk: what comes back, and the effect of damaged files and disks."""

import json
import os
import subprocess
import sys
import threading
import time
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

from reconciler.core.prompt_store import CHECKPOINT, KEY, LOCK, TAG, TAG_TEXT, PromptStore
from reconciler.engine.prompt_disk import PromptDisk as DaemonsSide
from reconciler.worker import quantized_cache
from reconciler.worker.disk import directory, layout
from reconciler.worker.disk import files as prompt_files
from reconciler.worker.disk import store as module
from reconciler.worker.disk.names import BLOCK
from reconciler.worker.disk.store import PromptDisk, Scope

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
    for known, expected in ((0, LONG), (LONG - module.LEAST, LONG), (LONG - module.LEAST + 1, 0)):
        assert fetched(scope(disk), range(LONG + 9), known)[1] == expected
    short = PromptDisk(store(tmp_path / "short"))
    save(short, range(module.LEAST - 1), [fill(KVCache(), module.LEAST - 1) for _ in range(2)])
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


def test_names_do_not_tell_the_prompt_without_the_key(tmp_path: Path) -> None:
    for place in ("one", "two"):
        save(PromptDisk(store(tmp_path / place)), range(LONG), FILLED())
    one, two = ({file.name for file in files(tmp_path / place)} for place in ("one", "two"))
    assert len(one) == len(two) == 4
    assert not one & two


def test_files_are_private_and_excluded_from_backups(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save(PromptDisk(store(tmp_path)), range(LONG), FILLED())
    finally:
        os.umask(before)
    root = tmp_path / "prompts"
    found = {path: path.stat().st_mode & 0o777 for path in (root, *root.rglob("*"))}
    assert {mode for path, mode in found.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in found.items() if path.is_file()} == {0o600}
    assert {path.name for path in root.iterdir() if path.is_file()} == {KEY, LOCK, TAG}


def replaced(data: bytes, entry: dict[str, Any]) -> bytes:
    """A file whose only array is described as `entry`."""
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:][:length])["__metadata__"]
    size = 4 if entry["shape"] == [] else 0
    entry = entry | {"data_offsets": [0, size]}
    head = json.dumps({"__metadata__": metadata, "rows 0/keys": entry}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(size)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "cut off": lambda data: data[:-100],
    "longer": lambda data: data + b"\0",
    "empty": lambda _: b"",
    "not ours": lambda _: b"\xff" * 100,
    "huge header": lambda data: (2**40).to_bytes(8, "little") + data[8:],
    "deep header": lambda _: (20000).to_bytes(8, "little") + b"[" * 20000,
    "huge array": lambda data: data.replace(b"[1, 1, 128", b"[1, 9999999999, 128"),
    "negative": lambda data: data.replace(b"[1, 1, 128", b"[-1, -1, 128"),
    "no sum": lambda data: data.replace(b"crc32", b"crc33"),
    "another type": lambda data: data.replace(b"F32", b"I32"),
    "no type": lambda data: data.replace(b"F32", b"F99"),
    "no room for a row": lambda data: replaced(data, {"dtype": "F32", "shape": [0, 2**62]}),
    "many axes": lambda data: replaced(data, {"dtype": "F32", "shape": [0] * 100}),
    "no axes": lambda data: replaced(data, {"dtype": "F32", "shape": []}),
    "offsets": lambda data: data.replace(b'"data_offsets": [0', b'"data_offsets": [8'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_deleted_and_the_prompt_before_it_is_used(
    tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    key = disk.key
    assert key is not None
    third = scope(disk).names(key).blocks(np.arange(LONG))[3]
    (file,) = [one for one in files(tmp_path) if one.stem == third]
    data = DAMAGES[damage](file.read_bytes())
    assert data != file.read_bytes()
    file.write_bytes(data)
    again = PromptDisk(store(tmp_path))
    assert fetched(scope(again), range(LONG + 9))[1] == 2 * BLOCK
    assert not file.exists()
    assert capfd.readouterr().err.count("damaged") == 1


def test_a_file_under_another_name_counts_as_damaged(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    save(disk, [7] * LONG, FILLED())
    assert disk.key is not None
    names = scope(disk).names(disk.key)
    place = tmp_path / "prompts" / ("0" * 16)
    mine, other = (
        place / f"{names.blocks(np.asarray(t))[3]}.safetensors" for t in (range(LONG), [7] * LONG)
    )
    other.replace(mine)
    assert fetched(scope(disk), range(LONG + 9))[1] == 2 * BLOCK


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, make: Any) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    assert disk.key is not None
    third = scope(disk).names(disk.key).blocks(np.arange(LONG))[3]
    path = tmp_path / "prompts" / ("0" * 16) / f"{third}.safetensors"
    path.unlink()
    make(path)
    assert fetched(scope(disk), range(LONG + 9))[1] == 2 * BLOCK


def test_a_file_that_another_worker_deleted_counts_as_not_there(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    for file in files(tmp_path):
        file.unlink()
    assert fetched(scope(disk), range(LONG + 9)) == (None, 0)
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG


def size(tmp_path: Path) -> int:
    return sum(file.stat().st_size for file in files(tmp_path))


def test_the_least_recently_used_prompts_are_deleted_at_the_limit(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    one = size(tmp_path)
    disk = PromptDisk(store(tmp_path, round(2.5 * one)))
    save(disk, [1] * LONG, FILLED())
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG  # a use
    save(disk, [2] * LONG, FILLED())
    assert size(tmp_path) <= 2.5 * one
    assert int((tmp_path / "prompts" / LOCK).read_bytes()) == size(tmp_path)
    found = [fetched(scope(disk), prompt)[1] for prompt in (range(LONG + 9), [2] * (LONG + 9))]
    assert found == [LONG, LONG]
    assert fetched(scope(disk), [1] * (LONG + 9))[1] < LONG


def test_a_lower_limit_applies_at_once_and_to_all_models(tmp_path: Path) -> None:
    save(PromptDisk(store(tmp_path)), range(LONG), FILLED())
    one = size(tmp_path)
    other = PromptStore(str(tmp_path / "prompts"), "1" * 16, "/models/b", "b", one // 2)
    PromptDisk(other)
    assert size(tmp_path) <= one // 2


@pytest.mark.parametrize("name", ["llama", "models--a--b", "f" * 15, "F" * 16, "f" * 16])
def test_files_of_others_in_the_directory_are_neither_counted_nor_deleted(
    tmp_path: Path, name: str
) -> None:
    """Weights of models, which have the same suffix, were deleted at the limit."""
    others = tmp_path / "prompts" / name
    others.mkdir(parents=True)
    (others.parent / TAG).write_bytes(TAG_TEXT)  # they were put there later
    for file in ("model.safetensors", ".new"):
        (others / file).write_bytes(b"weights" * 100_000)
    disk = PromptDisk(store(tmp_path, 600_000))
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG
    assert {file.name for file in others.iterdir()} == {"model.safetensors", ".new"}


@pytest.mark.parametrize("name", ["notes.txt", TAG, LOCK, KEY, "f" * 16])
def test_a_directory_of_other_files_is_not_used(tmp_path: Path, name: str) -> None:
    """One with a key was, and one with the tag that other programs put into their caches."""
    root = tmp_path / "prompts"
    file = root / name / KEY if name == "f" * 16 else root / name
    file.parent.mkdir(parents=True)
    text = TAG_TEXT.splitlines()[0] + b"\n# Created by huggingface_hub\n"
    file.write_bytes(text)
    before = sorted(root.rglob("*"))
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    DaemonsSide(root, 0).clear()
    assert sorted(root.rglob("*")) == before
    assert file.read_bytes() == text


def test_pipes_in_place_of_small_files_stop_nothing(tmp_path: Path) -> None:
    """A worker that opened one waited for ever, and no prompt was written."""
    save(PromptDisk(store(tmp_path)), range(LONG), FILLED())
    for name in (KEY, TAG, "0" * 16 + f"/{CHECKPOINT}"):
        (tmp_path / "prompts" / name).unlink()
        os.mkfifo(tmp_path / "prompts" / name)
    # Without its tag, it is not used.
    (tmp_path / "prompts" / TAG).unlink()
    (tmp_path / "prompts" / TAG).write_bytes(TAG_TEXT)
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG


def test_odd_files_do_not_keep_prompts_from_being_deleted(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    one = size(tmp_path)
    other = tmp_path / "prompts" / ("1" * 16)
    (other / ".new").mkdir(parents=True)
    (other / "a.safetensors").mkdir()
    (other / CHECKPOINT).touch()
    disk = PromptDisk(store(tmp_path, round(1.5 * one)))
    save(disk, [1] * LONG, FILLED())
    assert fetched(scope(disk), [1] * (LONG + 9))[1] == LONG


def test_at_the_limit_few_writes_list_all_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write did, which takes a second of CPU time for 100,000 files."""
    save(PromptDisk(store(tmp_path)), range(LONG), FILLED())
    one = size(tmp_path)
    disk = PromptDisk(store(tmp_path, 40 * one))
    for number in range(1, 41):
        save(disk, [number] * LONG, FILLED())
    lists = 0
    list_files = directory.Directory._files

    def counted(self: Any) -> Any:
        nonlocal lists
        lists += 1
        return list_files(self)

    monkeypatch.setattr(directory.Directory, "_files", counted)
    for number in range(41, 47):
        save(disk, [number] * LONG, FILLED())
    assert lists <= 3
    assert size(tmp_path) <= 40 * one


def test_after_the_clock_was_set_back_new_prompts_are_not_the_first_to_go(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    one = size(tmp_path)
    year = time.time() + 365 * 24 * 3600
    for file in files(tmp_path):
        os.utime(file, (year, year))
    disk = PromptDisk(store(tmp_path, round(2.5 * one)))
    for number in (1, 2):
        save(disk, [number] * LONG, FILLED())
    found = [fetched(scope(disk), [number] * (LONG + 9))[1] for number in (1, 2)]
    assert found == [LONG, LONG]


def test_a_cache_that_never_fits_is_not_written(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path, 1000))
    save(disk, range(LONG), FILLED())
    assert not files(tmp_path)


@pytest.mark.parametrize("count", [b"", b"no number", b"99999999999999999999"])
def test_a_wrong_count_is_corrected(tmp_path: Path, count: bytes) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    (tmp_path / "prompts" / LOCK).write_bytes(count)
    save(disk, [1] * LONG, FILLED())
    assert int((tmp_path / "prompts" / LOCK).read_bytes()) == size(tmp_path)


def test_no_prompt_is_written_if_too_little_of_the_disk_is_free(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = PromptDisk(store(tmp_path), least_free=2**62)
    for number in range(3):
        save(disk, [number] * LONG, FILLED())
    assert not files(tmp_path)
    assert capfd.readouterr().err.count("prompts cannot be written to disk") == 1


def test_an_unusable_directory_is_reported_once_and_harms_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts").write_text("a file")
    disk = PromptDisk(store(tmp_path))
    for _ in range(2):
        save(disk, range(LONG), FILLED())
    assert fetched(scope(disk), range(LONG + 9)) == (None, 0)
    assert capfd.readouterr().err.count("prompts cannot be written to disk") == 1


def test_a_directory_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts").chmod(0o777)
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    assert list((tmp_path / "prompts").iterdir()) == []


def test_writing_goes_on_once_the_directory_is_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts").write_text("a file")
    disk = PromptDisk(store(tmp_path))
    (tmp_path / "prompts").unlink()
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG


def test_a_directory_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    for path in sorted((tmp_path / "prompts").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert fetched(scope(disk), range(LONG + 9)) == (None, 0)
    save(disk, range(LONG), FILLED())
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG
    assert (tmp_path / "prompts" / ("0" * 16) / CHECKPOINT).read_text() == "/models/a"


def test_two_workers_write_the_same_prompts(tmp_path: Path) -> None:
    disks = [PromptDisk(store(tmp_path)) for _ in range(2)]
    for number in range(8):
        for disk in disks:
            scope(disk).save(np.asarray([number] * LONG), FILLED())
    for disk in disks:
        disk.flush(60)
    for disk in (*disks, PromptDisk(store(tmp_path))):
        assert [fetched(scope(disk), [n] * (LONG + 9))[1] for n in range(8)] == [LONG] * 8
    assert int((tmp_path / "prompts" / LOCK).read_bytes()) == size(tmp_path)


WRITER = """\
import sys
from pathlib import Path
import numpy as np
from tests.worker import test_prompt_disk as module
disk = module.PromptDisk(module.store(Path(sys.argv[1])))
number = 0
while True:
    cache = [module.fill(module.KVCache(), width=4096) for _ in range(2)]
    module.scope(disk).save(np.asarray([number] * module.LONG), cache)
    disk.flush(60)
    print(number, flush=True)
    number += 1
"""


@pytest.mark.long
def test_a_worker_that_is_killed_while_it_writes_leaves_nothing_wrong(tmp_path: Path) -> None:
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        new = tmp_path / "prompts" / ("0" * 16) / directory.NEW
        deadline = time.monotonic() + 60
        while not new.exists():
            assert time.monotonic() < deadline
        process.kill()
        process.wait()
        process.stdout.close()
        disk = PromptDisk(store(tmp_path))
        assert not new.exists()
        assert int((tmp_path / "prompts" / LOCK).read_bytes()) == size(tmp_path)
        assert fetched(scope(disk), [0] * (LONG + 9))[1] == LONG


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


def test_a_write_that_is_ended_releases_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    disk = PromptDisk(store(tmp_path))
    writes = [scope(disk).save(np.asarray([n] * LONG), FILLED()) for n in range(2)]
    assert gate.entered.wait(60)
    for write in writes:
        assert write is not None
        assert not write.over
        write.end()
        assert write.over
    gate.open.set()
    disk.flush(60)
    assert len(files(tmp_path)) == 1  # the file that was being written


def test_waiting_for_a_disk_that_hangs_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    disk = PromptDisk(store(tmp_path))
    scope(disk).save(np.arange(LONG), FILLED())
    assert gate.entered.wait(60)
    disk.flush(0.01)
    assert not files(tmp_path)
    gate.open.set()
    disk.flush(60)
    assert len(files(tmp_path)) == 4


def test_a_prompt_is_computed_if_the_disk_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    monkeypatch.setattr(module, "READ_SECONDS", 0.01)
    entered, answers = threading.Event(), threading.Event()
    original = disk.directory.reader

    def reader(name: str) -> Any:
        entered.set()
        assert answers.wait(60)
        return original(name)

    monkeypatch.setattr(disk.directory, "reader", reader)
    while not entered.is_set():  # its time may be over before the thread begins
        assert fetched(scope(disk), range(LONG + 9)) == (None, 0)
    assert scope(disk).fetch(range(LONG + 9), 0, print) is None  # the others do not even try
    answers.set()
    monkeypatch.setattr(module, "READ_SECONDS", 60.0)
    deadline = time.monotonic() + 60
    while not disk.reads:
        assert time.monotonic() < deadline
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG
