"""A watched directory of manifests, with a real daemon."""

from pathlib import Path

from reconciler.core.snapshot import read_file
from tests.support import Daemon, Home, conditions


def test_a_manifest_is_followed_when_added_changed_and_deleted(shared: Daemon) -> None:
    home = shared.home
    home.write("other.yaml", name="followed-other", model="tiny/llama")
    path = home.write("followed.yaml", name="followed", model="tiny/llama", context_length=100)
    first = shared.ready("followed")
    assert first["status"]["config"]["context_length"] == 100

    home.write("followed.yaml", name="followed", model="tiny/llama", context_length=200)
    second = shared.ready("followed", generation=2)
    assert second["status"]["config"]["context_length"] == 200
    assert second["status"]["worker_pid"] == first["status"]["worker_pid"]

    home.write("followed.yaml", name="followed", model="tiny/qwen3", context_length=200)
    third = shared.ready("followed", generation=3)
    assert third["status"]["worker_pid"] != first["status"]["worker_pid"]

    path.unlink()
    shared.gone("followed")
    shared.ready("followed-other")
    assert shared.loaded() & {"followed", "followed-other"} == {"followed-other"}


def test_an_invalid_manifest_is_reported_with_its_position_and_keeps_what_is_loaded(
    shared: Daemon,
) -> None:
    path = shared.home.write(
        "bad-a.yaml", name="bad-assistant", model="tiny/llama", context_length=100
    )
    shared.home.write("bad-b.yaml", name="bad-neighbour", model="tiny/llama")
    before = shared.ready("bad-assistant")
    text = path.read_text("utf-8")
    path.write_text(text.replace("spec:", "spec:\n  modle: x"), "utf-8")
    shared.home.write("bad-c.yaml", name="bad-later", model="tiny/llama")
    shared.ready("bad-later")
    (source,) = shared.get("/api/v1/sources")["sources"]
    files = {f["path"]: f for f in source["files"] if f["path"].startswith("bad-")}
    assert {p: f["valid"] for p, f in files.items()} == {
        "bad-a.yaml": False,
        "bad-b.yaml": True,
        "bad-c.yaml": True,
    }
    (error,) = files["bad-a.yaml"]["errors"]
    assert (error["line"], error["column"], error["key"]) == (6, 3, "spec.modle")
    assert "modle" in error["message"]
    assert shared.get("/api/v1/records/bad-assistant")["status"] == before["status"]


def test_a_record_of_a_manifest_is_not_unloaded_or_changed_over_http(shared: Daemon) -> None:
    shared.unload("tiny/llama")  # it may have been loaded over HTTP
    shared.home.write("owned.yaml", name="tiny/llama", model="tiny/llama", context_length=100)
    shared.ready("tiny/llama")
    body = {"model": "tiny/llama", "config": {"context_length": 50}}
    for status, answer in (
        shared.unload("tiny/llama"),
        shared.request("POST", "/api/v1/models/load", body),
    ):
        assert (status, answer["error"]["code"]) == (409, "managed_by_manifest")
        assert "owned.yaml:1" in answer["error"]["message"]
    joined = shared.load({"model": "tiny/llama"})
    assert (joined["joined"], joined["config"]["context_length"]) == (True, 100)


def test_a_manifest_takes_over_a_model_loaded_over_http(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "instance_id": "taken", "context_length": 100})
    before = shared.ready("taken")
    path = shared.home.write("s.yaml", name="taken", model="tiny/llama", context_length=100)
    after = shared.eventually("taken", lambda r: r["owner"] != "http")
    assert (after["generation"], after["status"]) == (1, before["status"])
    assert shared.unload("taken")[0] == 409
    path.unlink()
    shared.gone("taken")


def test_suspending_a_record_keeps_it_and_unloads_its_instance(shared: Daemon) -> None:
    path = shared.home.write(
        "suspended.yaml", name="suspended", model="tiny/llama", context_length=100
    )
    text = path.read_text("utf-8")
    shared.ready("suspended")
    path.write_text(text + "  suspend: true\n", "utf-8")
    record = shared.eventually("suspended", lambda r: r["status"]["config"] is None)
    record = shared.eventually("suspended", lambda r: conditions(r)["Progressing"] == "False")
    assert record["spec"]["suspend"] is True
    assert conditions(record) == {"Ready": "False", "Progressing": "False", "Stalled": "False"}
    body = {"model": "tiny/llama", "instance_id": "suspended"}
    status, answer = shared.request("POST", "/api/v1/models/load", body)
    assert (status, answer["error"]["code"]) == (409, "managed_by_manifest")
    assert "suspends it" in answer["error"]["message"]
    path.write_text(text, "utf-8")
    assert shared.ready("suspended", generation=3)["status"]["config"]["context_length"] == 100


def test_a_manifest_that_cannot_be_satisfied_reports_the_reason(shared: Daemon) -> None:
    shared.home.write("met-a.yaml", name="greedy", model="tiny/llama", context_length=10**6)
    shared.home.write("met-b.yaml", name="absent", model="no/such")
    shared.home.write("met-c.yaml", name="fine", model="tiny/llama")
    shared.ready("fine")
    for name, reason, word in (
        ("greedy", "ImpossibleSetting", "32768"),
        ("absent", "ModelNotFound", "no/such"),
    ):
        record = shared.eventually(name, lambda record: conditions(record)["Stalled"] == "True")
        stalled = next(c for c in record["status"]["conditions"] if c["type"] == "Stalled")
        assert stalled["reason"] == reason
        assert word in stalled["message"]


def test_a_missing_directory_is_reported_and_followed_once_it_exists(home: Home) -> None:
    (home.manifests / "README").unlink()
    home.manifests.rmdir()
    with Daemon(home) as daemon:
        assert daemon.load({"model": "tiny/llama"})["model_instance_id"] == "tiny/llama"
        (source,) = daemon.get("/api/v1/sources")["sources"]
        assert source["readable"] is False
        assert str(home.manifests) in source["message"]
        home.write("a.yaml", name="assistant", model="tiny/llama")
        daemon.ready("assistant")


def test_the_example_manifests_are_valid() -> None:

    paths = sorted(Path("manifests").glob("*.yaml"))
    assert paths
    for path in paths:
        file = read_file(path.name, path.read_bytes())
        assert (file.flaws, len(file.declared)) == ((), 1)
