"""Progress bars."""

import os
import pty
import sys

import pytest

from reconciler.cli.progress import watched


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with watched("waiting") as update:
            update(500_000, 2_000_000, "weights")
        terminal.flush()
        shown = b""
        while b"0.5/2.0 MB" not in shown:  # limited by the test's timeout
            shown += screen.read(10_000)
    assert b"weights" in shown


def test_nothing_is_printed_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with watched("waiting") as update:
        update(500_000, 2_000_000, "weights")
    assert capfd.readouterr() == ("", "")
