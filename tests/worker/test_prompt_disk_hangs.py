"""Test a disk that does not answer, and writes that are ended."""

import threading
import time
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache

from reconciler.worker.disk import fetches
from reconciler.worker.disk import files as prompt_files
from reconciler.worker.disk.scope import LEAST
from reconciler.worker.disk.store import MOST_WRITES, PromptDisk
from tests.worker.prompt_disks import FILLED, LONG, Gate, fetched, files, fill, save, scope, store


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
    assert not files(tmp_path)


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
    monkeypatch.setattr(fetches, "READ_SECONDS", 0.01)
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
    monkeypatch.setattr(fetches, "READ_SECONDS", 60.0)
    deadline = time.monotonic() + 60
    while not disk.reads:
        assert time.monotonic() < deadline
    assert fetched(scope(disk), range(LONG + 9))[1] == LONG


def test_a_write_that_hangs_holds_no_memory_once_it_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held the whole cache, which nobody counted any more."""
    entered, goes_on = threading.Event(), threading.Event()

    def crc32(data: Any, before: int = 0) -> int:
        if len(data) > 10_000:  # an array, not the header
            entered.set()
            assert goes_on.wait(60)
        return zlib.crc32(data, before)

    disk = PromptDisk(store(tmp_path))
    monkeypatch.setattr(prompt_files, "crc32", crc32)
    before = mx.get_active_memory()
    cache = FILLED()
    mx.eval([one.state for one in cache])
    size = mx.get_active_memory() - before
    write = scope(disk).save(np.arange(LONG), cache)
    assert write is not None
    assert entered.wait(60)
    del cache
    assert mx.get_active_memory() - before >= size, "it is still to be written"
    write.end()
    assert mx.get_active_memory() == before
    goes_on.set()
    disk.flush(60)
    assert not list((tmp_path / "prompts").rglob("*.new"))
    assert disk.writes, "that is no failure of the disk"


def test_writes_do_not_pile_up_before_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    disk = PromptDisk(store(tmp_path))
    cache = [fill(KVCache(), LEAST) for _ in range(2)]
    queued = 0
    for number in range(200):
        write = scope(disk).save(np.full(LEAST, number), cache)
        if write is not None:
            queued += 1
            assert gate.entered.wait(60)
            write.end()
    assert queued <= MOST_WRITES + 1
    gate.open.set()
    disk.flush(60)
    assert scope(disk).save(np.arange(LEAST), cache) is not None
    disk.flush(60)


@pytest.mark.parametrize("way", ["end", "cancel"])
def test_a_read_that_hangs_holds_no_memory_once_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """It held what it had read of the prompt, beside the cache that was computed instead."""
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    entered, answers, count = threading.Event(), threading.Event(), 0
    original = prompt_files.Reader.read

    def read(self: Any, entry: Any) -> Any:
        nonlocal count
        count += 1
        if count == 9:  # of four arrays in each file
            entered.set()
            assert answers.wait(60)
        return original(self, entry)

    monkeypatch.setattr(prompt_files.Reader, "read", read)
    results: list[Any] = []
    tracemalloc.start()
    try:
        fetch = scope(disk).fetch(range(LONG + 9), 0, results.append)
        assert fetch is not None
        assert entered.wait(60)
        traced = tracemalloc.get_traced_memory()[0]
        getattr(fetch, way)()
        released = traced - tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
        answers.set()
    assert released > 0.9 * 4 * LONG * 64 * 4, "arrays, tokens, width, bytes"
    assert results == ([None] if way == "end" else [])


def test_reading_a_prompt_starts_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prompt started one, for its time limit."""
    others = set(threading.enumerate()) - {threading.current_thread()}
    disk = PromptDisk(store(tmp_path))
    save(disk, range(LONG), FILLED())
    started: list[str] = []
    original = threading.Thread.start

    def start(self: threading.Thread) -> None:
        if threading.current_thread() in others:  # a template of an earlier test still renders
            others.add(self)
        else:
            started.append(self.name)
        original(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert [fetched(scope(disk), range(LONG + 9))[1] for _ in range(3)] == [LONG] * 3
    assert started == []
