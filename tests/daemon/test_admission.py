"""Memory shortage, with real daemons whose budget holds one model at a time."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import Daemon, Home, conditions, copied

BODY = {"model": "tiny/llama", "context_length": 1024}
ENDLESS = {"context_length": 30_000, "eval_batch_size": 8}
"""Needs no more memory than a short context with larger steps, and outlasts any test."""


UNPROBED = ("--probe-interval", "1h")
"""For workers that a test pauses."""


@pytest.fixture(scope="module")
def one(shared: Daemon) -> str:
    """A budget for one tiny model with a context of 1024, but not for two."""
    copied(shared, "own/one")  # a model whose weights are already in memory needs less
    _, estimate = shared.request("POST", "/api/v1/models/estimate", BODY | {"model": "own/one"})
    return f"{1.5 * estimate['needed_bytes'] / 10**6:.0f}MB"


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory, models: Path, one: str) -> Iterator[Daemon]:
    """A daemon with memory for one model and without eviction."""
    home = Home(tmp_path_factory.mktemp("home"), models)
    with Daemon(home, "--memory-budget", one, *UNPROBED) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def evicting(tmp_path_factory: pytest.TempPathFactory, models: Path, one: str) -> Iterator[Daemon]:
    """A daemon with memory for one model that evicts idle instances."""
    options = ("--memory-budget", one, "--memory-policy", "evict-idle", *UNPROBED)
    with Daemon(Home(tmp_path_factory.mktemp("home"), models), *options) as daemon:
        yield daemon


@pytest.fixture
def daemon(refusing: Daemon) -> Iterator[Daemon]:
    """The daemon without eviction; unloads what a test loaded."""
    yield refusing
    for name in refusing.loaded():
        refusing.unload(name)


@pytest.fixture
def evictor(evicting: Daemon) -> Iterator[Daemon]:
    """The daemon with eviction; removes what a test declared."""
    yield evicting
    paths = list(evicting.home.manifests.glob("*.yaml"))
    for path in paths:  # all at once, so that no record takes the memory that another releases
        path.unlink()
    for path in paths:
        evicting.gone(path.stem)


def manifest(home: Home, name: str, model: str, priority: int, **config: int) -> None:
    config = config or {"context_length": 1024}
    path = home.write(f"{name}.yaml", name=name, model=model, **config)
    path.write_text(path.read_text("utf-8") + f"  priority: {priority}\n", "utf-8")


@contextmanager
def answering(daemon: Daemon, model: str) -> Iterator[None]:
    """A response that has begun and lasts as long as the block; its worker pauses meanwhile."""
    body = {"model": model, "prompt": [7], "max_tokens": 29_000, "temperature": 0}
    worker = psutil.Process(daemon.get(f"/api/v1/records/{model}")["status"]["worker_pid"])
    with daemon.stream("/v1/completions", body | {"stream": True}) as stream:
        stream.readline()
        worker.suspend()  # it would keep a core busy, which the rest of the test needs
        try:
            yield
        finally:
            worker.resume()


def waits(daemon: Daemon, name: str) -> str:
    """Wait until a record waits for memory; return the message."""
    found: list[str] = []

    def waiting() -> bool:
        records = daemon.get("/api/v1/records")["records"]
        ready = [r["status"]["conditions"][0] for r in records if r["name"] == name]
        found[:] = [c["message"] for c in ready if c["reason"] == "WaitingForMemory"]
        return bool(found)

    daemon.until(waiting)
    return found[0]


def reason(record: Any) -> str:
    return str(record["status"]["conditions"][0]["reason"])


def test_a_refusal_has_the_numbers_and_lists_what_uses_the_memory(daemon: Daemon, one: str) -> None:
    daemon.load(BODY)
    _, estimate = daemon.request("POST", "/api/v1/models/estimate", BODY | {"model": "tiny/qwen3"})
    assert not estimate["fits"]
    assert estimate["budget_bytes"] == int(one.removesuffix("MB")) * 10**6
    status, answer = daemon.request("POST", "/api/v1/models/load", BODY | {"model": "tiny/qwen3"})
    assert (status, answer["error"]["code"]) == (503, "insufficient_memory")
    message = answer["error"]["message"]
    assert f"short of the memory budget of {float(one.removesuffix('MB')):.1f} MB" in message
    assert "in use: tiny/llama " in message
    status, answer = daemon.request("POST", "/api/v1/models/load", BODY | {"context_length": 32768})
    assert answer["error"]["code"] == "insufficient_memory"
    assert daemon.loaded() == {"tiny/llama"}


def test_a_load_waits_for_an_unload_in_progress(daemon: Daemon) -> None:
    daemon.load({"model": "tiny/llama"} | ENDLESS)
    with ThreadPoolExecutor() as pool, answering(daemon, "tiny/llama"):
        unloading = pool.submit(daemon.unload, "tiny/llama")  # it lasts as long as the response
        daemon.until(lambda: daemon.get("/api/v1/records")["records"] == [])
        loading = pool.submit(daemon.load, BODY | {"model": "tiny/qwen3"})
        assert "waiting for the memory of tiny/llama" in waits(daemon, "tiny/qwen3")
    assert unloading.result()[0] == 200
    assert loading.result()["model_instance_id"] == "tiny/qwen3"
    assert daemon.loaded() == {"tiny/qwen3"}


def test_an_idle_instance_of_lower_priority_is_evicted_and_comes_back(evictor: Daemon) -> None:
    daemon, home = evictor, evictor.home
    manifest(home, "low", "tiny/llama", 0)
    daemon.ready("low")
    manifest(home, "high", "tiny/qwen3", 1)
    daemon.ready("high")
    assert daemon.loaded() == {"high"}
    low = daemon.get("/api/v1/records/low")
    assert reason(low) == "WaitingForMemory"
    assert conditions(low)["Progressing"] == "True"
    (home.manifests / "high.yaml").unlink()
    daemon.ready("low")
    assert daemon.loaded() == {"low"}


def test_an_instance_with_a_running_request_is_not_evicted(evictor: Daemon) -> None:
    daemon, home = evictor, evictor.home
    manifest(home, "low", "tiny/llama", 0, **ENDLESS)
    daemon.ready("low")
    with answering(daemon, "low"):
        manifest(home, "high", "tiny/qwen3", 1)
        assert "in use: low" in waits(daemon, "high")
    daemon.ready("high")
    assert daemon.loaded() == {"high"}


def test_the_measured_memory_of_a_worker_is_reported(home: Home) -> None:
    with Daemon(home, "--probe-interval", "1") as daemon:
        daemon.load(BODY)
        pid = daemon.get("/api/v1/records/tiny/llama")["status"]["worker_pid"]
        resident = psutil.Process(pid).memory_info().rss
        wanted = BODY | {"model": "tiny/qwen3"}

        def counted() -> bool:
            _, estimate = daemon.request("POST", "/api/v1/models/estimate", wanted)
            return bool(estimate["budget_bytes"] - estimate["free_bytes"] >= 0.9 * resident)

        daemon.until(counted)


@pytest.mark.parametrize("budget", ["0%", "12", "400XB"])
def test_an_invalid_budget_is_refused_at_the_command_line(budget: str) -> None:
    command = [sys.executable, "-m", "reconciler", "serve", "--memory-budget", budget]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "--memory-budget" in done.stderr


def test_a_load_waits_for_memory_leased_to_a_running_request(daemon: Daemon, home: Home) -> None:
    first, second = {"model": "tiny/llama"}, {"model": "tiny/qwen3", "context_length": 64}
    needs = [
        daemon.request("POST", "/api/v1/models/estimate", body)[1]["needed_bytes"]
        for body in (first, second)
    ]
    # Both fit, with 10 MB to spare. The response takes 110 MB more than is reserved for it.
    budget = round(sum(needs) * 1.03)
    with Daemon(home, "--memory-budget", f"{budget}B", *UNPROBED) as leasing:

        def events() -> list[tuple[str, str]]:
            return [(e["type"], e["reason"]) for e in leasing.events() if e["name"] == "second"]

        # The estimate is made now so that no worker has to inspect the model during the response.
        leasing.request("POST", "/api/v1/models/estimate", second)
        leasing.load(first)
        with answering(leasing, "tiny/llama"):
            manifest(home, "second", "tiny/qwen3", 0, context_length=64)
            leasing.until(lambda: ("transition", "Loading") in events())
            for _ in range(20):  # round trips: without the wait, loading would begin by now
                assert events()[-1] == ("transition", "Loading")
        leasing.ready("second")
        assert ("phase", "weights") in events()
        assert leasing.loaded() == {"tiny/llama", "second"}
