"""Test the directory of KV caches: its limit, files of others, and several workers."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconciler.core.prompt_store import CHECKPOINT, KEY, LOCK, TAG, TAG_TEXT, PromptStore
from reconciler.engine.prompt_disk import PromptDisk as DaemonsSide
from reconciler.worker.disk import directory
from reconciler.worker.disk import store as module
from reconciler.worker.disk.store import PromptDisk
from tests.worker.prompt_disks import (
    FILLED,
    LONG,
    fetched,
    files,
    save,
    scope,
    size,
    store,
)


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
from tests.worker import prompt_disks as module
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
