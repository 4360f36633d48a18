"""The comparison with other servers, as a user runs it where none can be installed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    """Run the comparison, with a pip that knows no packages."""
    alone = {"XDG_CACHE_HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--peers", "--quick", *words],
        env=kept | alone,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_table_without_servers_to_install(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    with start(tmp_path, "--json", str(file)) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("| measurement | reconciler ")
    assert "mlx_lm.server" in lines[0]
    assert [line for line in lines if line.startswith("- ")] == [
        line for line in lines if "not installed: ERROR: No matching distribution" in line
    ]
    rows = [line for line in lines[2:] if line.startswith("|")]
    assert len(rows) == 10
    assert not [line for line in rows if "| - " in line], out
    results = json.loads(file.read_text())
    # An idle server may use no measurable CPU time, to which there is no ratio.
    assert len(rows) - 1 <= len(results) <= len(rows)
    assert all(result["against"].startswith("mlx_lm.server ") for result in results)


def test_an_interrupted_run_leaves_no_server_behind(tmp_path: Path) -> None:
    with start(tmp_path, "--only", "throughput-llama") as process:
        assert process.stderr is not None
        assert "8 at a time" in process.stderr.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert process.returncode
    assert len(family) > 2
    assert psutil.wait_procs(family, timeout=10)[1] == []
