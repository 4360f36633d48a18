"""Hostile or hanging checkpoints: the daemon that has them still serves the others."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dead_mount import dead_mount
from tests.models.hostile import DAMAGES
from tests.support import Daemon, Home, conditions

SPECIMENS = sorted(DAMAGES)[::7]
"""Damages whose checkpoints are loaded and declared one by one; all are listed."""


@pytest.fixture
def hostile(tmp_path: Path, models: Path) -> Iterator[Daemon]:
    """A daemon with healthy models and checkpoints with all kinds of damage."""
    home, root = Home(tmp_path, models), tmp_path / "hostile"
    for name, damage in DAMAGES.items():
        path = root / key(name)
        shutil.copytree(models / "tiny/llama", path)
        damage(path)
    with Daemon(home, "--models", str(root)) as daemon:
        yield daemon


def key(name: str) -> str:
    return "hostile/" + name.replace("/", "-").replace(" ", "-")


def reconciler(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(daemon.home.root), "RECONCILER_URL": daemon.url},
    )


def refused(answer: tuple[int, Any]) -> None:
    status, body = answer
    assert (status, body["error"]["code"]) == (400, "invalid_checkpoint"), body
    assert len(body["error"]["message"]) < 1000


def test_hostile_checkpoints_harm_no_others_on_any_interface(hostile: Daemon) -> None:
    daemon = hostile
    for number, name in enumerate(SPECIMENS):
        daemon.home.write(f"{number}.yaml", name=f"bad-{number}", model=key(name))
    daemon.home.write("good.yaml", name="good", model="tiny/llama")
    daemon.ready("good")
    for name in SPECIMENS:
        body = {"model": key(name)}
        refused(daemon.request("POST", "/api/v1/models/load", body))
        refused(daemon.request("POST", "/api/v1/models/estimate", body))
        refused(daemon.request("PUT", "/api/v1/records/put", {"spec": body}))
    assert daemon.load({"model": "tiny/llama"})["joined"]
    for restarted in (False, True):
        if restarted:
            assert daemon.stop() == 0
            daemon.start()
            daemon.ready("good")
        for number in range(len(SPECIMENS)):
            record = daemon.eventually(
                f"bad-{number}", lambda r: conditions(r)["Stalled"] == "True"
            )
            assert record["status"]["conditions"][0]["reason"] == "InvalidCheckpoint"
        rows = {row["key"]: row for row in daemon.get("/api/v1/models")["models"]}
        for name in DAMAGES:
            assert 0 < len(rows[key(name)]["error"]) < 1000
        assert [i["id"] for i in rows["tiny/llama"]["loaded_instances"]] == ["good"]
        assert [row["id"] for row in daemon.get("/v1/models")["data"]] == ["good"]
        plan = daemon.get("/api/v1/plan")
        problems = {a["name"]: a["problem"]["code"] for a in plan["actions"]}
        assert problems == {f"bad-{n}": "invalid_checkpoint" for n in range(len(SPECIMENS))}
        assert daemon.get("/health")["status"] == "ok"
    listed = reconciler(daemon, "ls")
    assert listed.returncode == 0
    assert key(SPECIMENS[0]) in listed.stdout
    assert "Traceback" not in daemon.log() + listed.stdout + listed.stderr


def test_a_dead_mount_delays_no_other_model_and_no_stop(home: Home) -> None:
    root = home.root / "more"
    dead = root / "mount"
    dead.mkdir(parents=True)
    home.write("dead.yaml", name="dead", model="mount/model")
    home.write("good.yaml", name="good", model="tiny/llama")
    with dead_mount(dead), Daemon(home, "--models", str(root)) as daemon:
        daemon.ready("good")
        record = daemon.eventually("dead", lambda r: conditions(r)["Stalled"] == "True")
        assert record["status"]["conditions"][0]["reason"] == "InvalidCheckpoint"
        assert "does not answer" in record["status"]["conditions"][0]["message"]
        rows = {row["key"]: row for row in daemon.get("/api/v1/models")["models"]}
        assert "does not answer" in rows["mount"]["error"]
        assert daemon.load({"model": "tiny/qwen3"})["status"] == "loaded"
        assert daemon.unload("tiny/qwen3")[0] == 200
        (home.manifests / "good.yaml").unlink()
        daemon.gone("good")
        assert daemon.stop() == 0


@pytest.mark.long
def test_requests_for_a_model_on_a_dead_mount_are_answered(home: Home) -> None:
    root = home.root / "more"
    dead = root / "tiny"
    dead.mkdir(parents=True)
    with dead_mount(dead), Daemon(home, "--models", str(root)) as daemon:
        status, answer = daemon.request("POST", "/api/v1/models/load", {"model": "tiny/other"})
        assert (status, answer["error"]["code"]) == (400, "invalid_checkpoint")
        assert str(dead) in answer["error"]["message"]
        assert daemon.load({"model": "tiny/llama"})["instance_id"] == "tiny/llama"
        found = reconciler(daemon, "doctor", "--", *home.arguments(), "--models", str(root))
        assert "does not answer" in found.stdout
        assert daemon.stop() == 0
