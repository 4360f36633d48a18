"""Records declared over HTTP, dry runs, and the progress of a load."""

import http.client
import json
import urllib.request
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support import Daemon, copied, parse_stream


def put(daemon: Daemon, name: str, spec: Any, query: str = "") -> tuple[int, Any]:
    return daemon.request("PUT", f"/api/v1/records/{name}{query}", {"spec": spec})


def actions(plan: Any) -> list[tuple[str, str]]:
    return [(action["name"], action["action"]) for action in plan["actions"]]


def stream(daemon: Daemon, body: Any) -> tuple[int, list[tuple[str, Any]]]:
    """A load with progress: its events, or the error if it is refused at once."""
    with closing(http.client.HTTPConnection(urlsplit(daemon.url).netloc, timeout=90)) as connection:
        headers = {"Accept": "text/event-stream"}
        connection.request("POST", "/api/v1/models/load", json.dumps(body), headers)
        reply = connection.getresponse()
        if reply.status != 200:
            return reply.status, [("refused", json.load(reply))]
        return 200, list(parse_stream(reply))


def test_a_put_declares_a_record_and_replaces_it_completely(shared: Daemon) -> None:
    spec = {"model": "tiny/llama", "config": {"context_length": 100}, "priority": 3}
    status, record = put(shared, "put", spec, "?wait=ready")
    assert (status, record["owner"], record["generation"]) == (200, "http", 1)
    assert record["spec"] == spec
    assert record["status"]["config"]["context_length"] == 100
    assert put(shared, "put", spec)[1]["generation"] == 1
    status, record = put(shared, "put", {"model": "tiny/llama"})
    assert (record["generation"], record["spec"]) == (2, {"model": "tiny/llama", "config": {}})
    assert shared.ready("put", 2)["status"]["config"]["context_length"] > 100
    assert shared.request("DELETE", "/api/v1/records/put") == (200, {"instance_id": "put"})
    shared.gone("put")
    assert shared.request("DELETE", "/api/v1/records/put")[0] == 404


def test_a_put_with_an_impossible_spec_changes_nothing(shared: Daemon) -> None:
    shared.home.write("owned.yaml", name="owned", model="tiny/llama", context_length=50)
    shared.ready("owned")
    for name, spec, status, code in (
        ("owned", {"model": "tiny/llama"}, 409, "managed_by_manifest"),
        ("refused", {"model": "no/such"}, 404, "model_not_found"),
        ("refused", {"model": "tiny/llama", "config": {"context_length": 10**9}}, 400, None),
        ("-a", {"model": "tiny/llama"}, 400, "invalid_value"),
        ("refused", {"model": "tiny/llama", "colour": "red"}, 400, "unrecognized_keys"),
    ):
        got, answer = put(shared, name, spec)
        assert (got, code in (None, answer["error"]["code"])) == (status, True), answer
    assert put(shared, "refused", {"model": "tiny/llama"}, "?wait=gone")[0] == 400
    assert shared.request("DELETE", "/api/v1/records/owned")[0] == 409
    names = {r["name"] for r in shared.get("/api/v1/records")["records"]}
    assert "owned" in names
    assert names.isdisjoint({"refused", "-a"})
    assert shared.get("/api/v1/records/owned")["generation"] == 1


def test_a_suspended_put_is_kept_and_not_loaded(shared: Daemon) -> None:
    _, record = put(shared, "suspended", {"model": "tiny/llama", "suspend": True})
    assert record["status"]["conditions"][0]["reason"] in ("Pending", "Suspended")
    shared.eventually("suspended", lambda r: r["status"]["conditions"][0]["reason"] == "Suspended")
    assert "suspended" not in shared.loaded()


def test_a_dry_run_lists_actions_and_changes_nothing(daemon: Daemon) -> None:
    empty: Any = {
        "actions": [],
        "changes": [],
        "refused": [],
        "not_selected": {},
        "source_errors": [],
    }
    assert daemon.get("/api/v1/plan") == empty
    put(daemon, "a", {"model": "tiny/llama"}, "?wait=ready")
    daemon.home.write("m.yaml", name="m", model="tiny/llama", context_length=50)
    daemon.ready("m")
    all_wanted = {
        "apply": [
            {"name": "a", "spec": {"model": "tiny/llama", "config": {"context_length": 9}}},
            {"name": "b", "spec": {"model": "tiny/llama"}},
            {"name": "c", "spec": {"model": "tiny/qwen3"}},
            {"name": "d", "spec": {"model": "no/such"}},
            {"name": "m", "spec": {"model": "tiny/qwen3"}},
        ],
        "delete": ["m", "nobody"],
    }
    status, plan = daemon.request("POST", "/api/v1/plan", all_wanted)
    assert status == 200
    assert sorted(actions(plan)) == [
        ("a", "Reconfigure"),
        ("b", "Attach"),
        ("c", "Load"),
        ("d", "Hold"),
    ]
    by_name = {action["name"]: action for action in plan["actions"]}
    assert by_name["a"]["message"] == "changed: context_length from default to 9"
    assert by_name["a"]["config"]["context_length"] == 9
    assert by_name["d"]["problem"]["code"] == "model_not_found"
    assert [change["name"] for change in plan["changes"]] == ["a", "b", "c", "d"]
    assert plan["changes"][1]["before"] is None
    assert {r["name"]: r["code"] for r in plan["refused"]} == {
        "m": "managed_by_manifest",
        "nobody": "model_not_found",
    }
    assert daemon.get("/api/v1/plan") == empty
    assert daemon.loaded() == {"a", "m"}
    _, plan = daemon.request("POST", "/api/v1/plan", {"delete": ["a"]})
    assert actions(plan) == [("a", "Unload")]


def test_an_estimate_has_the_memory_that_a_load_needs(shared: Daemon) -> None:
    copied(shared, "estimate/one")
    ask = {"model": "estimate/one", "config": {"context_length": 100}}
    _, before = shared.request("POST", "/api/v1/models/estimate", ask)
    assert before["fits"]
    parts = ("process_bytes", "weights_bytes", "kv_cache_bytes", "prefill_bytes")
    assert before["needed_bytes"] == sum(before[part] for part in parts)
    assert before["shapes_seen"]
    answer = shared.load(ask)
    assert before["config"] == answer["config"]
    _, after = shared.request("POST", "/api/v1/models/estimate", ask)
    assert after["needed_bytes"] == after["kv_cache_bytes"] + after["prefill_bytes"]
    taken = before["free_bytes"] - after["free_bytes"]
    assert taken == pytest.approx(before["needed_bytes"], rel=0.1)
    ask["config"] = {"context_length": 10**9}
    assert shared.request("POST", "/api/v1/models/estimate", ask)[0] == 400


def test_a_load_reports_progress(shared: Daemon) -> None:
    copied(shared, "stream/one")
    status, events = stream(shared, {"model": "stream/one"})
    assert status == 200
    kinds = [kind for kind, _ in events]
    assert kinds[-1] == "result"
    assert set(kinds[:-1]) == {"progress"}
    phases = [data["phase"] for kind, data in events if kind == "progress"]
    assert list(dict.fromkeys(phases)) == ["worker", "weights", "warm_up"]
    read = [d["bytes_read"] for k, d in events if k == "progress" and d["phase"] == "weights"]
    assert read == sorted(read)
    assert read[-1] == events[-2 if phases[-1] == "weights" else -3][1]["bytes_total"]
    assert events[-1][1]["config"] == shared.load({"model": "stream/one"})["config"]
    assert shared.get("/api/v1/logs?name=stream/one") == {"lines": []}
    # A join streams only its result.
    assert [kind for kind, _ in stream(shared, {"model": "stream/one"})[1]] == ["result"]


def test_a_streamed_load_that_is_refused_is_an_ordinary_error(shared: Daemon) -> None:
    status, events = stream(shared, {"model": "no/such"})
    assert (status, events[0][1]["error"]["code"]) == (404, "model_not_found")


def test_a_streamed_load_that_fails_ends_with_the_error_and_its_log_is_kept(
    shared: Daemon,
) -> None:
    (copied(shared, "own/broken") / "tokenizer.json").write_text("{}", "utf-8")
    status, events = stream(shared, {"model": "own/broken"})
    assert status == 200
    assert events[0][0] == "progress"
    kind, answer = events[-1]
    assert (kind, answer["error"]["code"]) == ("error", "model_load_failed")
    lines = shared.get("/api/v1/logs?name=own/broken")["lines"]
    assert lines[0]["line"].startswith("Traceback")
    with urllib.request.urlopen(f"{shared.url}/api/v1/logs/stream?name=own/broken") as reply:
        assert list(parse_stream(reply)) == [("line", line) for line in lines]
    rest = f"{shared.url}/api/v1/logs/stream?name=own/broken&after={lines[0]['id']}"
    with urllib.request.urlopen(rest) as reply:
        assert list(parse_stream(reply)) == [("line", line) for line in lines[1:]]


def test_the_log_of_a_record_that_never_had_a_worker_is_not_found(shared: Daemon) -> None:
    assert shared.request("GET", "/api/v1/logs?name=nobody")[0] == 404
    assert shared.request("GET", "/api/v1/logs")[0] == 400
