"""Prometheus metrics of a real daemon."""

import json
import os
import signal
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from tests.support import Daemon, Home, copied


def metrics(daemon: Daemon) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by metric name and label values."""
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=90) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text = reply.read().decode()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def complete(daemon: Daemon, name: str, prompt: int, tokens: int) -> None:
    body = {"model": name, "prompt": [7] * prompt, "max_tokens": tokens, "ignore_eos": True}
    status, answer = daemon.request("POST", "/v1/completions", body)
    assert status == 200, answer


def tokens(daemon: Daemon, name: str) -> tuple[float, float]:
    found = metrics(daemon)
    kinds = ("prompt", "completion")
    return tuple(found["reconciler_tokens_total", (name, kind)] for kind in kinds)  # type: ignore[return-value]


def test_tokens_are_counted_by_instance_across_settings_unloads_and_deaths(
    shared: Daemon,
) -> None:
    copied(shared, "own/counted")
    for name in ("count-a", "count-b"):
        shared.load({"model": "own/counted", "instance_id": name})
    assert tokens(shared, "count-a") == (0, 0)
    complete(shared, "count-a", 10, 3)
    complete(shared, "count-b", 5, 2)
    assert (tokens(shared, "count-a"), tokens(shared, "count-b")) == ((10, 3), (5, 2))
    # Opens another session in the same worker and closes the old one.
    shared.load({"model": "own/counted", "instance_id": "count-a", "eval_batch_size": 64})
    complete(shared, "count-a", 10, 1)
    assert tokens(shared, "count-a") == (20, 4)
    # The metrics of an instance are removed with its record.
    assert shared.unload("count-b")[0] == 200
    shared.until(lambda: ("reconciler_tokens_total", ("count-b", "prompt")) not in metrics(shared))
    complete(shared, "count-a", 3, 3)
    assert tokens(shared, "count-a") == (23, 7)
    os.kill(shared.ready("count-a")["status"]["worker_pid"], signal.SIGKILL)
    shared.eventually("count-a", lambda r: r["status"]["restarts"] == 1)
    shared.ready("count-a")
    assert tokens(shared, "count-a") == (23, 7)


def test_a_stuck_worker_does_not_block_scrapes(home: Home) -> None:
    # With this interval, a scrape that waited for its worker would never be answered.
    with Daemon(home, "--probe-interval", "1h") as daemon:
        daemon.load({"model": "tiny/llama", "instance_id": "a"})
        complete(daemon, "a", 10, 3)
        assert tokens(daemon, "a") == (10, 3)
        pid = daemon.ready("a")["status"]["worker_pid"]
        os.kill(pid, signal.SIGSTOP)
        assert tokens(daemon, "a") == (10, 3)
        assert daemon.get("/api/v1/records/a")["status"]["restarts"] == 0
        os.kill(pid, signal.SIGKILL)  # a normal stop would wait seconds for it


def test_time_to_first_token_is_measured_in_each_api_streamed_or_not(shared: Daemon) -> None:
    shared.load({"model": "tiny/llama", "instance_id": "timed"})
    messages = [{"role": "user", "content": "x"}]
    chat = {"model": "timed", "messages": messages, "max_tokens": 2}
    requests: list[tuple[str, dict[str, object]]] = [
        ("/v1/chat/completions", chat),
        ("/v1/completions", {"model": "timed", "prompt": ["x", "y"], "n": 2, "max_tokens": 2}),
        ("/v1/responses", {"model": "timed", "input": "x", "max_output_tokens": 16}),
        ("/v1/messages", chat),
        ("/api/chat", {"model": "timed", "messages": messages, "options": {"num_predict": 2}}),
    ]
    for path, body in requests:
        for stream in (False, True):
            with shared.stream(path, body | {"stream": stream}) as reply:
                reply.read()
    nothing = {"model": "timed", "prompt": "x", "echo": True, "max_tokens": 0}
    assert shared.request("POST", "/v1/completions", nothing)[0] == 200
    found = metrics(shared)
    assert found["reconciler_first_token_seconds_count", ("timed",)] == 10
    assert found["reconciler_first_token_seconds_bucket", ("timed", "+Inf")] == 10
    assert found["reconciler_first_token_seconds_sum", ("timed",)] > 0


def test_loads_requests_deaths_and_manifest_errors_are_counted(daemon: Daemon) -> None:
    assert metrics(daemon)["reconciler_records", ("Ready",)] == 0
    daemon.load({"model": "tiny/llama", "instance_id": "a"})
    daemon.load({"model": "tiny/llama", "instance_id": "b"})
    (daemon.home.manifests / "bad.yaml").write_text("a: [", "utf-8")
    for stream in (False, True):
        body = {"model": "a", "prompt": [7], "max_tokens": 4, "stream": stream}
        data = json.dumps(body).encode()
        with urllib.request.urlopen(f"{daemon.url}/v1/completions", data=data, timeout=90) as reply:
            reply.read()
    lines = {
        "model": "a",
        "prompt": "x",
        "raw": True,
        "options": {"num_predict": 2, "temperature": 0},
    }
    with daemon.stream("/api/generate", lines) as reply:
        assert json.loads(reply.read().splitlines()[-1])["eval_count"] == 2
    pid = daemon.ready("a")["status"]["worker_pid"]
    os.kill(pid, signal.SIGKILL)
    for name in "ab":
        daemon.eventually(name, lambda r: r["status"]["restarts"] == 1)
        daemon.ready(name)
    source = f"directory:{daemon.home.manifests}"
    daemon.until(lambda: metrics(daemon)["reconciler_source_errors", (source,)] == 1)
    found = metrics(daemon)
    assert found["reconciler_records", ("Ready",)] == 2
    assert found["reconciler_queue_depth", ()] == 0
    assert found["reconciler_load_seconds_count", ("Load", "all")] == 2
    assert found["reconciler_load_seconds_count", ("Load", "weights")] == 2
    assert found["reconciler_load_seconds_count", ("Attach", "all")] == 2
    assert found["reconciler_actions_total", ("Load", "succeeded")] == 2
    assert found["reconciler_restarts_total", ("WorkerKilled",)] == 2
    assert found["reconciler_requests_total", ("a", "200")] == 3
    assert found["reconciler_reconcile_seconds_count", ()] > 4
    assert found["reconciler_tasks", ()] > 2
    memory = found["reconciler_instance_memory_bytes", ("a",)]
    assert 0 < memory <= found["reconciler_memory_used_bytes", ()]
    assert memory < found["reconciler_memory_budget_bytes", ()]
