"""Permissions of the state directory and the token file."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reconciler.cli.privacy import keep_state_private, warn_of_public_token


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("names", [(), ("lock", "run"), ("reconciler.db", "other")])
def test_a_state_directory_that_others_may_read_becomes_private(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    tmp_path.chmod(0o755)
    with capture_logs() as lines:
        keep_state_private(tmp_path, os.geteuid())
        keep_state_private(tmp_path, os.geteuid())
    assert mode(tmp_path) == 0o700
    assert [line["log_level"] for line in lines] == ["warning"]


@pytest.mark.parametrize(("permissions", "uid"), [(0o1777, 0), (0o755, 12345), (0o755, 0)])
def test_a_shared_directory_is_unchanged_and_warned_of(
    tmp_path: Path, permissions: int, uid: int
) -> None:
    (tmp_path / "somebody's").touch()
    tmp_path.chmod(permissions)
    with capture_logs() as lines:
        keep_state_private(tmp_path, uid)
    assert mode(tmp_path) == permissions
    assert lines[0]["fix"] == f"chmod 700 {tmp_path}"


def test_private_or_missing_files_cause_no_warning(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with capture_logs() as lines:
        keep_state_private(tmp_path, os.geteuid())
        keep_state_private(tmp_path / "none", os.geteuid())
    assert lines == []


@pytest.mark.parametrize(("permissions", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_token_that_others_may_read_is_warned_of(
    tmp_path: Path, permissions: int, warned: bool
) -> None:
    token = tmp_path / "token"
    token.write_text("secret", "utf-8")
    token.chmod(permissions)
    with capture_logs() as lines:
        warn_of_public_token(token)
    assert bool(lines) == warned
    assert "secret" not in str(lines)
