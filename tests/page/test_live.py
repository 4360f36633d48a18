"""The page's connection to the daemon, run by Node with simulated time."""

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
PAGE = Path("reconciler/page")


@pytest.mark.skipif(NODE is None, reason="there is no Node")
def test_a_connection_that_falls_silent_is_not_shown_as_live(tmp_path: Path) -> None:
    """A laptop that changed its network kept an old connection, and "Live", for hours."""
    for folder in ("js", "vendor"):
        shutil.copytree(PAGE / folder, tmp_path / folder)
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    shutil.copy("tests/page/programs/live.mjs", tmp_path)
    command = [NODE or "", str(tmp_path / "live.mjs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("held\n", 0), done.stderr
