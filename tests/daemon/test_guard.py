"""The host-crash guard, with a real daemon that is killed and a simulated reboot of the machine."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support import Daemon, Home, conditions, environment

SLOW = "tiny/slow"

HANGING_DISK = """\
import os, sys

def wait(event, details):
    if event == "open" and str(details[0]) == {file!r} and os.path.exists({pipe!r}):
        end = os.open({pipe!r}, os.O_RDONLY)
        while os.read(end, 4096):
            pass
        os.close(end)

if "reconciler.worker" in sys.orig_argv:
    sys.addaudithook(wait)
"""
"""Python startup code that makes a worker wait for a pipe before it opens a file."""


@pytest.fixture
def block(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pipe that blocks the worker's load of the model `SLOW`, like a disk that hangs."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("tiny/llama", "tiny/qwen3"):
        (models / name).parent.mkdir(exist_ok=True)
        (models / name).symlink_to(home.models / name)
    shutil.copytree(home.models / "tiny/llama", models / SLOW)
    home.models = models
    file, pipe = models / SLOW / "generation_config.json", tmp_path / "pipe"
    file.write_text("{}", "utf-8")
    os.mkfifo(pipe)
    start = tmp_path / "start" / "sitecustomize.py"
    start.parent.mkdir()
    start.write_text(HANGING_DISK.format(file=str(file), pipe=str(pipe)), "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(start.parent))
    return pipe


@pytest.fixture
def daemon(home: Home, block: Path) -> Iterator[Daemon]:
    assert block.exists()
    with Daemon(home) as running:
        yield running


def opened(daemon: Daemon, block: Path) -> int:
    """Open the file for writing once a process reads it."""
    ends: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):  # ENXIO while no process reads it
            ends.append(os.open(block, os.O_WRONLY | os.O_NONBLOCK))
        return bool(ends)

    daemon.until(is_read)
    return ends[0]


def let_look(daemon: Daemon, block: Path) -> None:
    """Let the spare worker inspect the model's shapes before anything is loaded."""
    end = opened(daemon, block)
    os.write(end, b"{}")
    os.close(end)


@contextmanager
def reading(daemon: Daemon, block: Path) -> Iterator[None]:
    """Run the block while the worker waits for the file, in the middle of the load."""
    daemon.until(lambda: any(e["type"] == "phase" for e in daemon.events()))
    end = opened(daemon, block)
    yield
    os.close(end)


def run(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(RECONCILER_URL=daemon.url),
        check=False,
    )


def rebooted(home: Home) -> None:
    """Simulate a reboot for the next start: a boot id that differs from the last run's."""
    with sqlite3.connect(home.state / "reconciler.db") as db:
        db.execute("UPDATE run SET boot_id = 'another start of the machine'")
    db.close()


def test_a_model_whose_load_crashes_the_daemon_twice_is_held_until_cleared(
    daemon: Daemon, block: Path
) -> None:
    home = daemon.home
    home.write("slow.yaml", name="slow", model=SLOW)
    for _ in range(2):
        let_look(daemon, block)
        with reading(daemon, block):
            daemon.kill()
        daemon.start()
    let_look(daemon, block)
    home.write("other.yaml", name="other", model="tiny/qwen3")
    daemon.ready("other")
    record = daemon.eventually("slow", lambda r: conditions(r)["Stalled"] == "True")
    stalled = record["status"]["conditions"][2]
    assert stalled["reason"] == "SuspectedHostCrash"
    assert "the daemon crashed twice while loading it" in stalled["message"]
    status, answer = daemon.request("POST", "/api/v1/models/load", {"model": SLOW})
    assert (status, answer["error"]["code"]) == (409, "suspected_host_crash")
    done = run(daemon, "describe", "slow")
    assert "SuspectedHostCrash" in done.stdout
    assert "`reconciler clear slow`" in done.stdout
    block.unlink()  # the disk no longer hangs
    done = run(daemon, "clear", "slow")
    assert (done.returncode, done.stdout) == (0, "the failures of slow are cleared\n")
    daemon.ready("slow")
    assert run(daemon, "clear", "nobody").returncode == 4


@pytest.mark.long  # test_two_machine_crashes_hold_the_loaded_records is short
def test_a_model_loaded_during_two_machine_crashes_is_held(
    daemon: Daemon,
) -> None:
    daemon.load({"model": "tiny/llama"})
    for _ in range(2):
        daemon.ready("tiny/llama")
        daemon.kill()
        rebooted(daemon.home)
        daemon.start()
    daemon.load({"model": "tiny/qwen3"})
    daemon.eventually("tiny/llama", lambda r: conditions(r)["Stalled"] == "True")
    status, answer = daemon.request(
        "POST", "/v1/completions", {"model": "tiny/llama", "prompt": "a", "max_tokens": 1}
    )
    assert status == 404
    assert "the machine crashed twice" in answer["error"]["message"]
    status, _ = daemon.request("POST", "/api/v1/records/tiny/llama/clear")
    assert status == 200
    daemon.ready("tiny/llama")


@pytest.mark.long
def test_a_reboot_after_a_clean_stop_suspects_no_model(daemon: Daemon) -> None:
    daemon.load({"model": "tiny/llama"})
    for _ in range(3):
        daemon.ready("tiny/llama")
        assert daemon.stop() == 0
        rebooted(daemon.home)
        daemon.start()
    daemon.ready("tiny/llama")
    assert "at a crash" not in daemon.log()


@pytest.mark.long
def test_a_kill_of_the_daemon_with_loaded_models_suspects_none(daemon: Daemon) -> None:
    daemon.load({"model": "tiny/llama"})
    for _ in range(3):
        daemon.ready("tiny/llama")
        daemon.kill()
        daemon.start()
    daemon.ready("tiny/llama")
