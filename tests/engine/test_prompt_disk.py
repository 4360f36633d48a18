"""Test the daemon's side of prompts on disk: what is removed, and where they are by default."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from reconciler.cli.serve import _prompt_cache
from reconciler.core.prompt_store import CHECKPOINT, KEY, LOCK, TAG, TAG_TEXT
from reconciler.engine import prompt_disk
from reconciler.engine.prompt_disk import PromptDisk


def directory(root: Path, name: str, checkpoint: bytes | None) -> Path:
    path = root / name
    path.mkdir(parents=True)
    (path / "a.safetensors").write_bytes(b"a")
    if checkpoint is not None:
        (path / CHECKPOINT).write_bytes(checkpoint)
    return path


def test_only_the_prompts_of_models_in_the_folder_are_removed(tmp_path: Path) -> None:
    gone = directory(tmp_path, "0" * 16, b"/hub/models--a--b/snapshots/c")
    staying = [
        directory(tmp_path, "1" * 16, b"/hub/models--a--bb/snapshots/c"),
        directory(tmp_path, "2" * 16, b"\xff\xfe\n"),
        directory(tmp_path, "3" * 16, None),
        directory(tmp_path, "mine", b"/hub/models--a--b/snapshots/c"),
    ]
    linked = tmp_path / ("4" * 16)
    linked.symlink_to(staying[-1])
    (tmp_path / TAG).write_bytes(TAG_TEXT)
    PromptDisk(tmp_path, 1).remove(Path("/hub/models--a--b"))
    assert not gone.exists()
    assert all((path / "a.safetensors").exists() for path in (*staying, linked))


def test_a_removal_counts_the_size_afresh(tmp_path: Path) -> None:
    directory(tmp_path, "0" * 16, b"/hub/models--a--b/snapshots/c")
    staying = directory(tmp_path, "1" * 16, b"/hub/models--c--d/snapshots/e")
    (staying / "b.safetensors").write_bytes(b"bb")
    (staying / ".new").write_bytes(b"unfinished")
    directory(tmp_path, "2" * 16, None)
    (tmp_path / TAG).write_bytes(TAG_TEXT)
    (tmp_path / LOCK).write_bytes(b"00000000000000000004")
    disk = PromptDisk(tmp_path, 1)
    disk.remove(Path("/hub/models--x--y"))
    assert disk.size() == 4  # nothing was removed
    disk.remove(Path("/hub/models--a--b"))
    assert disk.size() == 3


def test_a_removal_that_fails_for_others_counts_the_size_afresh(tmp_path: Path) -> None:
    directory(tmp_path, "0" * 16, b"/hub/models--a--b/snapshots/c")
    os.mkfifo(directory(tmp_path, "1" * 16, None) / CHECKPOINT)
    (tmp_path / TAG).write_bytes(TAG_TEXT)
    (tmp_path / LOCK).write_bytes(b"00000000000000000002")
    disk = PromptDisk(tmp_path, 1)
    with pytest.raises(OSError, match="not a regular file"):
        disk.remove(Path("/hub/models--a--b"))
    assert disk.size() == 1


def test_a_lock_that_is_never_released_does_not_prevent_a_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_disk, "LOCK_SECONDS", 0.0)
    gone = directory(tmp_path, "0" * 16, b"/hub/models--a--b/snapshots/c")
    (tmp_path / TAG).write_bytes(TAG_TEXT)
    with (tmp_path / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="release the lock"):
            PromptDisk(tmp_path, 1).remove(Path("/hub/models--a--b"))
    assert not gone.exists()


def test_nothing_is_removed_that_no_worker_made(tmp_path: Path) -> None:
    gone = directory(tmp_path, "0" * 16, b"/models/a")
    staying = [directory(tmp_path, name, None) for name in ("1" * 16, "mine")]
    for name in (KEY, LOCK):
        (tmp_path / name).write_bytes(b"1")
    PromptDisk(tmp_path, 0).clear()
    assert gone.exists()  # the directory is not marked
    (tmp_path / TAG).write_bytes(TAG_TEXT)
    PromptDisk(tmp_path, 0).clear()
    assert PromptDisk(tmp_path, 0).size() == 0  # it was still the size before
    assert not gone.exists()
    assert {p.name for p in tmp_path.iterdir()} == {LOCK, TAG, *(path.name for path in staying)}
    PromptDisk(tmp_path / "missing", 0).clear()


def test_a_cache_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """Any CACHEDIR.TAG counted as ours, such as that of Hugging Face's cache."""
    directory(tmp_path, "0" * 16, b"/models/a")
    (tmp_path / KEY).write_text("a key of another program", "utf-8")
    (tmp_path / TAG).write_bytes(TAG_TEXT.splitlines()[0] + b"\n# Created by huggingface_hub\n")
    before = sorted(tmp_path.rglob("*"))
    PromptDisk(tmp_path, 0).clear()
    PromptDisk(tmp_path, 1).remove(Path("/models"))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_cannot_be_removed_keeps_no_other_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file among the directories, a FIFO or an error ended the removal."""
    (tmp_path / TAG).write_bytes(TAG_TEXT)
    (tmp_path / KEY).touch()
    (tmp_path / ("0" * 16)).touch()
    os.mkfifo(directory(tmp_path, "1" * 16, None) / CHECKPOINT)
    busy, gone = (directory(tmp_path, digit * 16, b"/models/a") for digit in "23")
    remove = shutil.rmtree

    def rmtree(path: Path) -> None:
        if path == busy:
            raise OSError(39, "Directory not empty", str(path))
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with pytest.raises(OSError, match="not empty"):
        PromptDisk(tmp_path, 0).clear()
    assert busy.exists()
    assert not gone.exists()
    assert not (tmp_path / KEY).exists()


@pytest.mark.parametrize(("count", "size"), [(b"", 0), (b"x", 0), (b"00000000000000000012", 12)])
def test_the_size_is_the_workers_count(tmp_path: Path, count: bytes, size: int) -> None:
    assert PromptDisk(tmp_path, 1).size() == 0
    (tmp_path / LOCK).write_bytes(count)
    assert PromptDisk(tmp_path, 1).size() == size


def test_the_default_directory_follows_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert _prompt_cache("linux") == Path("/home/a/.cache/reconciler/prompts")
    assert _prompt_cache("darwin") == Path("/home/a/Library/Caches/reconciler/prompts")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert _prompt_cache("linux") == Path("/caches/reconciler/prompts")
