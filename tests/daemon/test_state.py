"""The state directory under faults, with a real daemon: damaged, full, read-only."""

import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.doctor import facts
from tests.daemon.test_serve import refuse
from tests.support import Daemon, Home, environment

NAME = "reconciler.db"


def doctor(home: Home) -> str:
    """Output of `doctor` about the state directory."""
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "doctor", "--", *home.arguments(), "--port", "1"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    return "\n".join(line for line in done.stdout.splitlines() if " state: " in line)


def test_a_damaged_database_is_set_aside_and_declared_records_come_back(home: Home) -> None:
    path = home.write("a.yaml", name="assistant", model="tiny/llama", context_length=100)
    declared = path.read_text("utf-8")
    path.write_text(f"{declared}  suspend: true\n", "utf-8")  # loaded once is enough
    with Daemon(home) as daemon:
        daemon.until(lambda: daemon.request("GET", "/api/v1/records/assistant")[0] == 200)
        spec = {"model": "tiny/qwen3", "suspend": True}
        assert daemon.request("PUT", "/api/v1/records/lost", {"spec": spec})[0] == 200
        daemon.stop()
        path.write_text(declared, "utf-8")
        database = home.state / NAME
        database.write_bytes(b"no database" + database.read_bytes()[11:5000])
        damaged = database.read_bytes()
        daemon.start()
        daemon.ready("assistant")
        assert daemon.loaded() == {"assistant"}
        assert [r["name"] for r in daemon.get("/api/v1/records")["records"]] == ["assistant"]
        (event,) = [e for e in daemon.events() if e["type"] == "state"]
        (kept,) = home.state.glob(f"{NAME}.broken-*")
        assert kept.read_bytes() == damaged
        assert event["reason"] == "SetAside"
        assert str(kept) in event["message"]
        assert event["message"] in daemon.log()
        assert "Traceback" not in daemon.log()
        # `doctor` reports it to later users too.
        daemon.stop()
        assert f"{kept}" in doctor(home)
        kept.unlink()
        assert facts.broken(home.state) == ()


def test_readable_http_records_are_loaded_again(home: Home) -> None:
    with Daemon(home) as daemon:
        daemon.load({"model": "tiny/llama", "context_length": 100})
        for number in range(30):
            spec = {"model": "tiny/qwen3", "suspend": True}
            status, _ = daemon.request("PUT", f"/api/v1/records/rest/{number}", {"spec": spec})
            assert status == 200
        daemon.stop()
        path = home.state / NAME
        size = path.stat().st_size // 4096 * 4096
        with path.open("r+b") as file:  # its last page, whatever that holds
            file.truncate(size - 4096)
        daemon.start()
        record = daemon.ready("tiny/llama")
        assert record["status"]["config"]["context_length"] == 100
        (event,) = [e for e in daemon.events() if e["type"] == "state"]
        assert "http records" in event["message"]


@pytest.mark.parametrize(
    "parent", ["/proc", pytest.param("/sys", marks=pytest.mark.long), "/dev/null"]
)
def test_a_state_directory_that_cannot_be_created_is_refused_in_one_line(
    home: Home, parent: str
) -> None:
    if not Path(parent).exists():
        pytest.skip(f"there is no {parent}")
    path = f"{parent}/reconciler"
    line = refuse(*home.arguments(), "--port", "0", "--state", path)
    assert f"cannot write to state directory {path}: " in line
    assert "--state" in line


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, "-m", "reconciler", "serve", *sys.argv[2:]])
"""


@pytest.mark.parametrize("room", [0, pytest.param(40, marks=pytest.mark.long)])
def test_a_full_disk_at_startup_is_an_error_in_one_line(home: Home, room: int) -> None:
    resting = {"spec": {"model": "tiny/llama", "suspend": True}}
    with Daemon(home) as daemon:
        assert daemon.request("PUT", "/api/v1/records/a", resting)[0] == 200
        daemon.stop()
    before = home.state.joinpath(NAME).read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(room), *home.arguments(), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.strip().splitlines()
    assert f"state directory {home.state}: " in line
    assert home.state.joinpath(NAME).read_bytes() == before
    with Daemon(home) as daemon:
        assert daemon.get("/api/v1/records/a")["spec"]["suspend"]
        assert daemon.request("PUT", "/api/v1/records/b", resting)[0] == 200


@contextmanager
def full(daemon: Daemon) -> Iterator[None]:
    """Leave no space for another page of the database's log, like a full disk."""
    process: Any = psutil.Process(daemon.process.pid)  # limits can be set on Linux only
    before = process.rlimit(resource.RLIMIT_FSIZE)
    size = (daemon.home.state / f"{NAME}-wal").stat().st_size
    assert (daemon.home.root / "log").stat().st_size < size / 2, "the log must go on"
    process.rlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    process.rlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(platform.system() != "Linux", reason="limits a process from outside")
def test_a_full_disk_refuses_changes_serves_loaded_models_and_recovers(
    daemon: Daemon,
) -> None:
    home = daemon.home
    home.write("a.yaml", name="declared", model="tiny/llama")
    daemon.ready("declared")
    daemon.load({"model": "tiny/llama", "instance_id": "mine"})

    def code(method: str, path: str, body: object = None) -> str:
        status, answer = daemon.request(method, path, body)
        assert status in (200, 507), answer
        return "ok" if status == 200 else str(answer["error"]["code"])

    with full(daemon):
        spec = {"spec": {"model": "tiny/qwen3", "suspend": True}}
        # The log may have reusable pages left.
        written: list[str] = []
        while code("PUT", f"/api/v1/records/rest/{len(written)}", spec) == "ok":
            written.append(f"rest/{len(written)}")
        before = daemon.get("/api/v1/records")
        status, answer = daemon.request("POST", "/api/v1/models/load", {"model": "tiny/qwen3"})
        assert (status, answer["error"]["code"]) == (507, "state_unwritable")
        assert str(home.state) in answer["error"]["message"]
        assert code("DELETE", "/api/v1/records/mine") == "state_unwritable"
        assert code("PUT", "/api/v1/records/mine", {"spec": {"model": "tiny/qwen3"}}) != "ok"
        source = f"/api/v1/sources/{daemon.get('/api/v1/sources')['sources'][0]['name']}"
        assert code("POST", f"{source}/suspend") == "state_unwritable"
        home.write("b.yaml", name="later", model="tiny/qwen3")
        assert code("POST", f"{source}/sync") == "state_unwritable"
        # Nothing is half done, loaded models still serve, and the fault is reported.
        assert daemon.get("/api/v1/records") == before
        assert daemon.load({"model": "tiny/llama", "instance_id": "mine"})["joined"]
        body = {"model": "mine", "prompt": "a", "max_tokens": 2}
        assert code("POST", "/v1/completions", body) == "ok"
        status, health = daemon.request("GET", "/health")
        assert (status, health["status"]) == (503, "degraded")
        assert str(home.state) in health["message"]
    daemon.ready("later")
    daemon.until(lambda: daemon.request("GET", "/health")[0] == 200)
    daemon.load({"model": "tiny/qwen3", "instance_id": "more"})
    assert daemon.unload("mine")[0] == 200
    daemon.kill()
    daemon.start()
    for name in ("declared", "later", "more"):
        daemon.ready(name)
    names = {r["name"] for r in daemon.get("/api/v1/records")["records"]}
    assert names == {"declared", "later", "more", *written}
    log = daemon.log()
    assert log.count("the state cannot be written") == 1
    assert log.count("the state can be written again") == 1
    assert "Traceback" not in log
