"""Removal of a model's folder from the cache."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.core.errors import LoadError, Reason
from reconciler.models.fetch import LOCK
from reconciler.models.removal import folder_of, remove, set_aside

KEY = "maker/model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models--maker--model"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "weights").write_bytes(b"12345")
    return folder


def removed(folder: Path) -> int:
    return remove(set_aside(folder))


def test_case_counts_even_if_the_file_system_ignores_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    assert folder_of(folder.parent, KEY) == folder
    assert folder_of(folder.parent, "Maker/Model") is None


def test_a_model_that_another_process_downloads_is_not_removed(folder: Path) -> None:
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LoadError) as raised:
            removed(folder)
    assert raised.value.problem.reason is Reason.MODEL_IN_USE
    assert (folder / "blobs" / "weights").is_file()
    assert removed(folder) == 5


def test_what_an_interrupted_removal_left_is_removed_by_the_next_one(folder: Path) -> None:
    left, other = folder.parent / ".removing-0123456789abcdef", folder.parent / ".removing-mine"
    for one in (left, other):
        one.mkdir()
    assert removed(folder) == 5
    assert list(folder.parent.iterdir()) == [other]


def test_a_folder_that_is_gone_is_not_found(folder: Path) -> None:
    removed(folder)
    with pytest.raises(LoadError) as raised:
        removed(folder)
    assert raised.value.problem.reason is Reason.MODEL_NOT_FOUND


def test_removals_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    folders = [tmp_path / f"models--maker--{number}" for number in range(8)]
    for folder in folders:
        for number in range(100):
            (folder / str(number)).mkdir(parents=True)
            (folder / str(number) / "weights").touch()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(removed, folders)) == [0] * 8
    assert list(tmp_path.iterdir()) == []
