"""The page's connection to the daemon, run by Node with simulated time."""

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
PAGE = Path("reconciler/page")


def run(program: str, directory: Path) -> str:
    """Output of a program that imports the page's modules."""
    for folder in ("js", "vendor"):
        shutil.copytree(PAGE / folder, directory / folder)
    (directory / "package.json").write_text('{"type": "module"}', "utf-8")
    shutil.copy(f"tests/page/programs/{program}", directory)
    command = [NODE or "", str(directory / program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(NODE is None, reason="there is no Node")
def test_a_connection_that_falls_silent_is_not_shown_as_live(tmp_path: Path) -> None:
    """A laptop that changed its network kept an old connection, and "Live", for hours."""
    assert run("live.mjs", tmp_path) == "held\n"


@pytest.mark.skipif(NODE is None, reason="there is no Node")
def test_a_log_is_resumed_after_its_last_line_when_its_connection_is_lost(tmp_path: Path) -> None:
    """The log of a worker waited for ever on a connection that had fallen silent."""
    assert run("resume.mjs", tmp_path) == "resumed\n"
