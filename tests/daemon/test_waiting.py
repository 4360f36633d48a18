"""Requests for models that are not loaded, or no longer: they wait, wake the record, or load it."""

import json
import shutil
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import QUESTIONS
from tests.support import Daemon, Home, copied

TEXT = "/v1/completions"
LONG = "tiny/long"


@pytest.fixture
def long(home: Home, tmp_path: Path) -> Home:
    """A home with the model `LONG`, whose context is unlimited."""
    models = tmp_path / "models"
    shutil.copytree(home.models / "tiny/llama", models / LONG)
    config = models / LONG / "config.json"
    settings = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(settings | {"max_position_embeddings": 10**12}), "utf-8")
    home.models = models
    return home


def more_than_half(daemon: Daemon) -> int:
    """Tokens of context for `LONG` that need more than half of this machine's memory."""
    wanted = {"model": LONG, "context_length": 10**6}
    _, estimate = daemon.request("POST", "/api/v1/models/estimate", wanted)
    per_token = (estimate["kv_cache_bytes"] + estimate["prefill_bytes"]) / 10**6
    return int(0.6 * estimate["budget_bytes"] / per_token)


def ask(daemon: Daemon, model: str, ttl: int | None = None, **headers: str) -> tuple[int, Any]:
    body = {"model": model, "prompt": [7], "max_tokens": 2, "ttl": ttl}
    return daemon.request("POST", TEXT, body, headers)


def test_a_request_waits_as_long_as_the_client_allows(long: Home) -> None:
    with Daemon(long) as daemon:
        half = more_than_half(daemon)
        daemon.load({"model": LONG, "instance_id": "first", "context_length": half})
        long.write("second.yaml", name="second", model=LONG, context_length=half)
        daemon.until(
            lambda: (
                ("second", "WaitingForMemory")
                in [(r["name"], reason(r)) for r in daemon.get("/api/v1/records")["records"]]
            )
        )
        status, answer = ask(daemon, "second", Prefer="respond-async, wait=0")
        assert (status, answer["error"]["code"]) == (503, "model_loading")
        data = json.dumps({"model": "second", "prompt": [7]}).encode()
        request = urllib.request.Request(daemon.url + TEXT, data, {"Prefer": "wait=0"})
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request)
        with raised.value as error:
            assert error.headers["Retry-After"] == "1"
        unloading = threading.Thread(target=daemon.unload, args=("first",))
        unloading.start()
        assert ask(daemon, "second")[0] == 200
        unloading.join()


def reason(record: Any) -> str:
    return str(record["status"]["conditions"][0]["reason"])


def test_an_idle_instance_is_unloaded_and_the_next_request_loads_it_again(shared: Daemon) -> None:
    copied(shared, "own/dozing")
    shared.load({"model": "own/dozing", "idle_ttl_seconds": 1})
    record = shared.eventually("own/dozing", lambda r: reason(r) == "Idle")
    assert record["spec"]["idle_ttl_seconds"] == 1
    assert "own/dozing" not in shared.loaded()
    assert record["status"]["config"] is None
    assert ask(shared, "own/dozing")[0] == 200
    shared.eventually("own/dozing", lambda r: reason(r) == "Idle")


def test_jit_loads_once_at_the_first_request(jit: Daemon) -> None:
    copied(jit, "own/asked")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(jit, "own/asked", ttl=1800)[0], range(8)))
    assert answers == [200] * 8
    assert jit.log().count("action=Load name=own/asked") == 2  # started, ended
    record = jit.get("/api/v1/records/own/asked")
    assert (record["owner"], record["spec"]["idle_ttl_seconds"]) == ("http", 1800)


@pytest.mark.long
def test_a_stream_sends_keep_alives_until_the_model_is_loaded(home: Home) -> None:
    with Daemon(home, "--jit") as daemon:
        daemon.until(lambda: daemon.get("/api/v1/node")["memory"] is not None)
        (worker,) = daemon.workers()
        worker.suspend()  # like one that reads from a slow disk
        body = {"model": QUESTIONS, "prompt": [7], "max_tokens": 2, "stream": True}
        with daemon.stream(TEXT, body) as reply:
            assert reply.headers["Content-Type"] == "text/event-stream"
            assert reply.readline() == b": keep-alive\n"
            worker.resume()
            lines = [line for line in reply if line.startswith(b"data: ")]
    assert lines[-1] == b"data: [DONE]\n"
    assert b'"text"' in lines[0]


def test_jit_never_answers_with_another_model(jit: Daemon) -> None:
    jit.load({"model": "tiny/llama"})
    status, answer = ask(jit, "no/such")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_without_jit_the_error_for_an_unloaded_model_explains_how_to_load_it(
    shared: Daemon,
) -> None:
    status, answer = ask(shared, "tiny/mamba")
    assert (status, answer["error"]["code"]) == (404, "model_not_loaded")
    assert 'POST /api/v1/models/load {"model": "tiny/mamba"}' in answer["error"]["message"]
    assert shared.request("GET", "/api/v1/records/tiny/mamba")[0] == 404


def test_the_status_has_the_action_and_time_of_the_settings_in_force(shared: Daemon) -> None:
    loads = []
    copied(shared, "own/explained")
    for more in ({}, {"instance_id": "b"}, {"instance_id": "b", "context_length": 100}):
        name = more.get("instance_id", "own/explained")
        shared.load({"model": "own/explained"} | more)
        status = shared.get(f"/api/v1/records/{name}")["status"]
        loads.append((status["loaded_by"], status["loaded_at"], status["load_phases"].keys()))
        assert status["load_time_seconds"] > 0
    assert [action for action, _, _ in loads] == ["Load", "Attach", "Reconfigure"]
    assert [at for _, at, _ in loads] == sorted(at for _, at, _ in loads)
    assert loads[2][2] == {"warm_up"}  # no weights were read
