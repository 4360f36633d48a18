"""Other names of a record, for clients with fixed names."""

from typing import Any

import pytest

from tests.support import MANIFEST, Daemon

LLAMA = "tiny/llama"
MESSAGES = [{"role": "user", "content": "a"}]
DOORS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/completions": {"prompt": "a", "max_tokens": 1},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/responses": {"input": "a", "max_output_tokens": 1},
    "/api/chat": {"messages": MESSAGES, "stream": False, "options": {"num_predict": 1}},
    "/api/generate": {"prompt": "a", "stream": False, "options": {"num_predict": 1}},
    "/api/v1/chat": {"input": "a", "max_output_tokens": 1},
    "/api/v0/completions": {"prompt": "a", "max_tokens": 1},
}


def declare(daemon: Daemon, name: str, *aliases: str, more: str = "") -> None:
    """Write a manifest with aliases."""
    text = MANIFEST.format(name=name, model=LLAMA, config="{context_length: 64}")
    text += f"  aliases: [{', '.join(aliases)}]\n{more}"
    (daemon.home.manifests / f"{name}.yaml").write_text(text, "utf-8")


def is_there(daemon: Daemon, name: str) -> bool:
    return daemon.request("GET", f"/api/v1/records/{name}")[0] == 200


def record(daemon: Daemon, name: str) -> Any:
    return daemon.get(f"/api/v1/records/{name}")


@pytest.fixture(scope="module")
def assistant(shared: Daemon) -> Daemon:
    declare(shared, "assistant", "gpt-4o")
    shared.until(lambda: is_there(shared, "assistant"))
    shared.ready("assistant")
    return shared


@pytest.mark.parametrize("path", DOORS)
def test_a_record_answers_under_its_alias(assistant: Daemon, path: str) -> None:
    status, answer = assistant.request("POST", path, DOORS[path] | {"model": "gpt-4o"})
    assert status == 200, answer


def test_ollamas_clients_may_add_the_tag_latest(assistant: Daemon) -> None:
    body = DOORS["/api/chat"] | {"model": "gpt-4o:latest"}
    assert assistant.request("POST", "/api/chat", body)[0] == 200
    shown = assistant.request("POST", "/api/show", {"model": "gpt-4o:latest"})
    assert shown[0] == 200
    assert "gpt-4o:latest" in {row["name"] for row in assistant.get("/api/tags")["models"]}


def test_aliases_are_listed_next_to_names(assistant: Daemon) -> None:
    rows = {row["id"]: row for row in assistant.get("/v1/models")["data"]}
    assert rows["gpt-4o"] == rows["assistant"] | {"id": "gpt-4o", "alias_of": "assistant"}
    assert assistant.get("/v1/models/gpt-4o") == rows["gpt-4o"]
    assert "gpt-4o" in {row["id"] for row in assistant.get("/api/v0/models")["data"]}
    assert record(assistant, "assistant")["spec"]["aliases"] == ["gpt-4o"]


def test_a_changed_alias_takes_effect_without_a_load(shared: Daemon) -> None:
    declare(shared, "steady", "first")
    shared.until(lambda: is_there(shared, "steady"))
    before = shared.ready("steady")["status"]
    declare(shared, "steady", "second")
    after = shared.ready("steady", 2)["status"]
    assert after["loaded_at"] == before["loaded_at"]
    body = DOORS["/v1/completions"]
    assert shared.request("POST", "/v1/completions", body | {"model": "second"})[0] == 200
    assert shared.request("POST", "/v1/completions", body | {"model": "first"})[0] == 404


def test_a_load_request_sets_aliases_and_keeps_them_if_it_leaves_them_out(shared: Daemon) -> None:
    body = {"model": LLAMA, "instance_id": "ad-hoc", "context_length": 64}
    shared.load(body | {"aliases": ["claude-haiku"]})
    assert shared.load(body)["joined"]
    assert record(shared, "ad-hoc")["spec"]["aliases"] == ["claude-haiku"]
    shared.load(body | {"aliases": []})
    assert "aliases" not in record(shared, "ad-hoc")["spec"]


def test_the_second_record_with_an_alias_warns_and_does_not_answer(shared: Daemon) -> None:
    body = {"model": LLAMA, "context_length": 64, "aliases": ["twice"]}
    assert shared.load(body | {"instance_id": "older"})["warnings"] == []
    (warning,) = shared.load(body | {"instance_id": "newer"})["warnings"]
    assert (warning["key"], warning["asked"]) == ("aliases", "twice")
    assert warning in record(shared, "newer")["status"]["warnings"]
    assert record(shared, "older")["status"]["warnings"] == []
    rows = {row["id"]: row for row in shared.get("/v1/models")["data"]}
    assert rows["twice"]["alias_of"] == "older"
    shared.unload("older")
    assert record(shared, "newer")["status"]["warnings"] == []
    rows = {row["id"]: row for row in shared.get("/v1/models")["data"]}
    assert rows["twice"]["alias_of"] == "newer"


def test_a_request_by_alias_loads_an_idle_record(shared: Daemon) -> None:
    body = {"model": LLAMA, "instance_id": "resting", "context_length": 64, "idle_ttl_seconds": 1}
    shared.load(body | {"aliases": ["awake"]})
    shared.eventually("resting", lambda r: "Idle" in str(r["status"]["conditions"]))
    asked = DOORS["/v1/completions"] | {"model": "awake"}
    assert shared.request("POST", "/v1/completions", asked)[0] == 200


def test_no_other_record_answers_the_alias_of_a_suspended_one(shared: Daemon) -> None:
    declare(shared, "off", "tiny/LLAMA", more="  suspend: true\n")
    shared.until(lambda: is_there(shared, "off"))
    asked = DOORS["/v1/completions"] | {"model": "tiny/LLAMA"}
    status, answer = shared.request("POST", "/v1/completions", asked)
    assert status == 404
    assert "'off' is not loaded" in answer["error"]["message"]
    (shared.home.manifests / "off.yaml").unlink()
    shared.gone("off")


def test_an_invalid_alias_is_an_error_with_its_position(shared: Daemon) -> None:
    body = {"model": LLAMA, "aliases": ["no spaces"]}
    status, answer = shared.request("POST", "/api/v1/models/load", body)
    assert (status, answer["error"]["param"]) == (400, "aliases[0]")
