"""Commands that start a worker if MLX cannot be imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import environment


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Environment in which the import of MLX fails."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx/__init__.py").write_text("raise ImportError('no MLX here')", "utf-8")
    return environment(PYTHONPATH=str(tmp_path), HOME=str(tmp_path))


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reconciler", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environ
    )


def test_doctor_prints_only_its_findings(environ: dict[str, str]) -> None:
    done = run(environ, "doctor", "-o", "json")
    assert (done.returncode, done.stderr) == (1, "")
    (mlx,) = [finding for finding in json.loads(done.stdout) if finding["what"] == "mlx"]
    assert "no MLX here" in mlx["message"]


def test_the_demo_reports_the_error(environ: dict[str, str]) -> None:
    done = run(environ, "demo")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: no worker can be started")
    assert done.stderr.count("\n") == 1
