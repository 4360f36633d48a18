"""Files that are written as a whole, on a disk that has a cache of its own."""

import fcntl
import os
from pathlib import Path

import pytest

from reconciler.host import durable
from reconciler.store.database import connect


def test_where_the_system_can_have_a_drive_empty_its_cache_it_is_asked_to(
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


def test_a_file_system_that_knows_no_full_sync_is_synced_as_usual(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        durable.sync(file.fileno(), full_sync=9999)  # no such command


def test_what_cannot_be_written_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_the_database_has_the_drive_write_down_what_was_committed(tmp_path: Path) -> None:
    db = connect(tmp_path / "state.db")
    assert db.execute("PRAGMA fullfsync").fetchone()[0] == 1
    assert db.execute("PRAGMA checkpoint_fullfsync").fetchone()[0] == 1
    db.close()
