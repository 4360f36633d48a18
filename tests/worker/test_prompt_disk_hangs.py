"""Test a disk that does not answer, and writes that are ended."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconciler.worker.disk import store as module
from reconciler.worker.disk.store import PromptDisk
from tests.worker.prompt_disks import FILLED, LONG, Gate, fetched, files, save, scope, store


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
