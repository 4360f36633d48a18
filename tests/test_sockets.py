"""Directory of the workers' sockets."""

import os
from pathlib import Path

import pytest

from reconciler.engine import sockets


@pytest.mark.parametrize("depth", [1, 200])
def test_a_sockets_path_fits_and_is_private(tmp_path: Path, depth: int) -> None:
    state = tmp_path / ("s" * depth)
    state.mkdir()
    path = sockets.prepare(state)
    assert len(os.fsencode(path / "1234567890.sock")) <= sockets.LONGEST_PATH
    assert path.stat().st_mode & 0o777 == 0o700
    assert sockets.prepare(state) == path
    sockets.remove(path)
    assert not path.exists()


def test_sockets_of_a_former_daemon_are_removed(tmp_path: Path) -> None:
    path = sockets.prepare(tmp_path)
    (path / "1.sock").touch()
    assert list(sockets.prepare(tmp_path).iterdir()) == []
    sockets.remove(path)


def test_a_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "LONGEST_PATH", 0)
    monkeypatch.setattr(sockets, "SHORT", tmp_path)
    path = sockets.prepare(tmp_path)
    path.rmdir()
    path.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="another user"):
        sockets.prepare(tmp_path)
