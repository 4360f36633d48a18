"""Atomic writes of files to a disk with its own cache."""

import fcntl
import os
from pathlib import Path

import pytest

from reconciler.host import durable
from reconciler.store.database import connect


def test_the_drives_cache_is_flushed_if_the_system_supports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    synced: list[int] = []
    monkeypatch.setattr(fcntl, "fcntl", lambda _fd, command: asked.append(command))
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "f").open("wb") as file:
        durable.sync(file.fileno(), full_sync=51)
        assert (asked, synced) == ([51], [])
        durable.sync(file.fileno(), full_sync=None)
        assert (asked, synced) == ([51], [file.fileno()])


def test_a_file_system_without_full_sync_is_synced_as_usual(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        durable.sync(file.fileno(), full_sync=9999)  # the command is not supported


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    durable.write_whole(path, b"old", 0o600)

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "sync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_the_database_flushes_commits_to_the_drive(tmp_path: Path) -> None:
    db = connect(tmp_path / "state.db")
    assert db.execute("PRAGMA fullfsync").fetchone()[0] == 1
    assert db.execute("PRAGMA checkpoint_fullfsync").fetchone()[0] == 1
    db.close()
