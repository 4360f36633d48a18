"""State that survives a kill of the daemon, and what clients observe of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import Daemon, Home, conditions

BROKEN = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata: {name: broken}
spec:
  modle: x
"""
DEFAULTS = {"temperature": 0.25, "chat_template_kwargs": {"a": [1]}, "system_prompt": "Ü"}


@dataclass(frozen=True)
class Restarted:
    """A daemon after a kill and a restart."""

    daemon: Daemon
    before: dict[str, Any]
    """Records by name, before the kill."""
    last: str
    """Id of the last event before the kill."""


@pytest.fixture(scope="module")
def restarted(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Restarted]:
    home = Home(tmp_path_factory.mktemp("home"), models)
    home.write("declared.yaml", name="declared", model="tiny/llama", context_length=4096)
    broken = home.write("broken.yaml", name="broken", model="tiny/llama", context_length=100)
    past = home.write("past.yaml", name="past", model="tiny/llama", context_length=100)
    with Daemon(home) as daemon:
        daemon.load({"model": "tiny/llama", "instance_id": "tuned", "defaults": DEFAULTS})
        daemon.load({"model": "tiny/llama", "instance_id": "loaded", "context_length": 321})
        for name in ("declared", "broken", "past"):
            daemon.ready(name)
        home.write("past.yaml", name="past", model="tiny/llama", context_length=10**6)
        daemon.eventually("past", lambda r: conditions(r)["Stalled"] == "True")
        past.unlink()
        daemon.gone("past")
        broken.write_text(BROKEN, "utf-8")
        daemon.eventually("broken", lambda r: bool(r["source_errors"]))
        before = {r["name"]: r for r in daemon.get("/api/v1/records")["records"]}
        last = daemon.events()[-1]["id"]
        daemon.kill()
        daemon.start()
        yield Restarted(daemon, before, last)


def test_desired_models_are_loaded_again_after_a_kill(restarted: Restarted) -> None:
    assert restarted.before.keys() == {"declared", "broken", "tuned", "loaded"}
    for name, before in restarted.before.items():
        after = restarted.daemon.ready(name)
        for key in ("name", "owner", "generation", "spec", "created_at", "file", "line"):
            assert after[key] == before[key]
        assert after["status"]["config"] == before["status"]["config"]
    assert restarted.daemon.loaded() == restarted.before.keys()
    loaded = restarted.daemon.ready("loaded")
    assert loaded["status"]["config"]["context_length"] == 321


def test_a_manifest_that_exists_at_startup_is_loaded(restarted: Restarted) -> None:
    for record in (restarted.before["declared"], restarted.daemon.ready("declared")):
        assert record["spec"] == {"model": "tiny/llama", "config": {"context_length": 4096}}
        assert (record["file"], record["line"]) == ("declared.yaml", 1)
        manifests = restarted.daemon.home.manifests.resolve()
        assert record["owner"] == f"directory:{manifests}"


def test_defaults_survive_a_restart(restarted: Restarted) -> None:
    record = restarted.daemon.ready("tuned")
    assert record["spec"]["defaults"] == DEFAULTS
    found = {d["key"]: (d["value"], d["source"]) for d in record["status"]["defaults"]}
    assert found["temperature"] == (0.25, "record")


def test_the_last_good_state_of_a_file_survives_a_restart(restarted: Restarted) -> None:
    after = restarted.daemon.ready("broken")
    assert after["status"]["config"] == restarted.before["broken"]["status"]["config"]
    (error,) = (e for e in after["source_errors"] if e["key"] == "spec.modle")
    assert (error["file"], error["line"], error["column"]) == ("broken.yaml", 5, 3)
    assert "known keys: model" in error["message"]


def test_history_survives_the_record_and_a_restart(restarted: Restarted) -> None:
    kept = restarted.daemon.get("/api/v1/history?name=past")["history"]
    assert [(g["generation"], g["outcome"]) for g in kept] == [(2, "Failed"), (1, "Loaded")]
    assert "32768" in kept[0]["message"]
    assert (kept[1]["file"], kept[1]["line"]) == ("past.yaml", 1)
    assert kept[1]["spec"] == {"model": "tiny/llama", "config": {"context_length": 100}}
    assert kept[1]["load_time_seconds"] > 0
    assert all(g["ended_at"] for g in kept)
    names = {g["name"] for g in restarted.daemon.get("/api/v1/history")["history"]}
    assert names == {"past", *restarted.before}


def test_a_client_that_resumes_after_a_restart_gets_a_lost_event(restarted: Restarted) -> None:
    assert restarted.daemon.events(f"follow=false&after={restarted.last}")[0] == "lost"
