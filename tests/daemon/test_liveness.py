"""Workers that crash, are killed, hang or stop generating are detected, distinguished and replaced.

A stopped process (SIGSTOP) simulates a hang. Intervals are long enough for a slow machine:
the tests check what is detected, not when.
"""

import http.client
import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support import Daemon, Home, copied

INTERVAL = 2.0
"""Probe interval in seconds for tests in which a hang must be detected."""

SHORT = 1.0
"""Probe interval in seconds for tests that exceed two intervals without a hang."""

PREFILL = {"context_length": 32_768, "eval_batch_size": 16}
HANGING = """\
import signal, sys, time
if "reconciler.worker" in sys.orig_argv:
    signal.signal(signal.SIGUSR1, lambda *_: time.sleep(1e6))
"""
"""The main thread, which generates, handles signals; the thread that answers HTTP continues."""

ENDLESS = {"prompt": [7], "temperature": 0, "max_tokens": 30_000}


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Daemon]:
    """A daemon that detects hangs soon."""
    home = Home(tmp_path_factory.mktemp("home"), models)
    with Daemon(home, "--probe-interval", str(INTERVAL)) as daemon:
        yield daemon


@pytest.fixture
def name(probed: Daemon, request: pytest.FixtureRequest) -> str:
    """An instance for one test; its worker also has the instances of earlier tests."""
    name = str(request.node.name)
    probed.load({"model": "tiny/llama", "instance_id": name, "context_length": 32_768})
    return name


def pid(daemon: Daemon, name: str = "assistant") -> int:
    return int(daemon.get(f"/api/v1/records/{name}")["status"]["worker_pid"])


def stream(daemon: Daemon, body: Any) -> http.client.HTTPResponse:
    data = json.dumps({"model": "assistant", "stream": True} | body).encode()
    reply: http.client.HTTPResponse = urllib.request.urlopen(
        urllib.request.Request(f"{daemon.url}/v1/completions", data=data), timeout=90
    )
    return reply


def causes(daemon: Daemon, name: str = "assistant") -> list[tuple[str, str]]:
    """Reason and message of each transition caused by the end of a worker."""
    kept = daemon.events(f"follow=false&name={name}")
    ends = ("WorkerDied", "WorkerKilled", "WorkerHung", "GenerationDied")
    return [
        (ready["reason"], ready["message"])
        for event in kept
        if event != "lost" and event["type"] == "transition"
        for ready in event["conditions"]
        if ready["type"] == "Ready" and ready["reason"] in ends
    ]


def is_replaced(daemon: Daemon, old: int, cause: str, *words: str, name: str = "assistant") -> None:
    """Check that worker `old` is found dead once, for that cause, and replaced."""
    daemon.eventually(name, lambda r: r["status"]["restarts"] == 1)
    status = daemon.ready(name)["status"]
    assert status["worker_pid"] != old
    assert status["restarts"] == 1
    ((reason, message),) = causes(daemon, name)
    assert reason == cause, message
    assert all(word in message for word in (str(old), *words)), message
    assert not psutil.pid_exists(old)
    stream(daemon, {"model": name, "prompt": [7], "max_tokens": 1}).read()


def test_an_idle_worker_that_hangs_is_detected_and_replaced(probed: Daemon, name: str) -> None:
    old = pid(probed, name)
    os.kill(old, signal.SIGSTOP)
    is_replaced(probed, old, "WorkerHung", "has not answered", name=name)


def test_a_busy_worker_that_hangs_is_detected_and_its_stream_ends(
    probed: Daemon, name: str
) -> None:
    old = pid(probed, name)
    with stream(probed, ENDLESS | {"model": name}) as reply:
        assert reply.readline().startswith(b"data: ")
        os.kill(old, signal.SIGSTOP)
        *_, last = [line for line in reply if line.startswith(b"data: ")]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "worker_hung"
    is_replaced(probed, old, "WorkerHung", "has not answered", name=name)


def seen(daemon: Daemon) -> None:
    """Inspect the shapes of a model, so that the next task of a worker is to load it."""
    status, _ = daemon.request("POST", "/api/v1/models/estimate", {"model": "tiny/llama"})
    assert status == 200


@pytest.mark.long
def test_a_spare_worker_that_hangs_during_shape_inspection_is_replaced(home: Home) -> None:
    with Daemon(home) as daemon:
        daemon.until(lambda: daemon.get("/api/v1/node")["memory"] is not None)
        (spare,) = daemon.workers()
        spare.suspend()
        home.write("a.yaml", name="assistant", model="tiny/llama")
        status = daemon.ready("assistant")["status"]
        assert status["worker_pid"] != spare.pid
        assert "it did not build" in daemon.log()


def test_a_worker_that_hangs_during_a_load_is_detected_and_replaced(home: Home) -> None:
    with Daemon(home, "--probe-interval", str(INTERVAL)) as daemon:
        daemon.until(lambda: daemon.get("/api/v1/node")["memory"] is not None)
        seen(daemon)
        (spare,) = daemon.workers()
        spare.suspend()
        home.write("a.yaml", name="assistant", model="tiny/llama")
        status = daemon.ready("assistant")["status"]
        # The instance was never loaded before, so this is not a restart.
        assert (status["worker_pid"] != spare.pid, status["restarts"]) == (True, 0)
        ((reason, message),) = causes(daemon)
        assert reason == "WorkerHung"
        assert str(spare.pid) in message
        assert not spare.is_running()


def test_removing_a_record_ends_its_load_in_progress(home: Home) -> None:
    with Daemon(home) as daemon, ThreadPoolExecutor() as pool:
        daemon.until(lambda: daemon.get("/api/v1/node")["memory"] is not None)
        seen(daemon)
        (reading,) = daemon.workers()
        reading.suspend()  # it stays in the middle of reading weights
        body = {"model": "tiny/llama"}
        loading = pool.submit(daemon.request, "POST", "/api/v1/models/load", body)
        daemon.until(lambda: any(e["type"] == "phase" for e in daemon.events()))
        assert daemon.unload("tiny/llama")[0] == 200
        status, answer = loading.result()
        assert (status, answer["error"]["code"]) == (409, "removed")
        assert "'tiny/llama' was unloaded" in answer["error"]["message"]
        assert not reading.is_running()
        assert daemon.get("/health")["status"] == "ok"
        daemon.load({"model": "tiny/llama"})


def test_a_load_over_http_whose_worker_hangs_fails_with_that_reason(home: Home) -> None:
    with Daemon(home, "--probe-interval", str(INTERVAL)) as daemon:
        daemon.until(lambda: daemon.get("/api/v1/node")["memory"] is not None)
        seen(daemon)
        (spare,) = daemon.workers()
        spare.suspend()
        status, answer = daemon.request("POST", "/api/v1/models/load", {"model": "tiny/llama"})
        assert (status, answer["error"]["code"]) == (500, "worker_hung")
        daemon.load({"model": "tiny/llama"})


ENDS = {
    "tiny/llama": (signal.SIGKILL, "WorkerKilled", "outside by SIGKILL; the kernel does that"),
    "tiny/qwen3": (signal.SIGSEGV, "WorkerDied", "crashed (SIGSEGV)"),
}

MORE_ENDS = {
    "tiny/llama-4bit": (signal.SIGTERM, "WorkerKilled", "killed from outside by SIGTERM"),
    "tiny/gemma2": (signal.SIGABRT, "WorkerDied", "crashed (SIGABRT)"),
    # The signal interrupts the generating thread; the thread that answers HTTP does not see it.
    "tiny/mamba": (signal.SIGINT, "GenerationDied", "KeyboardInterrupt"),
}


@pytest.mark.parametrize(
    "ends",
    [
        pytest.param(ENDS, id="killed or crashed"),
        pytest.param(MORE_ENDS, id="more", marks=pytest.mark.long),
    ],
)
def test_the_end_of_a_worker_is_reported(
    probed: Daemon, ends: dict[str, tuple[signal.Signals, str, str]]
) -> None:
    old = {}
    for model in ends:
        probed.load({"model": model, "instance_id": model})
        old[model] = pid(probed, model)
    for model, (number, _, _) in ends.items():
        os.kill(old[model], number)
    for model, (_, cause, words) in ends.items():
        is_replaced(probed, old[model], cause, words, name=model)


def test_a_generation_thread_that_dies_ends_its_request(probed: Daemon, name: str) -> None:
    old = pid(probed, name)
    with stream(probed, ENDLESS | {"model": name}) as reply:
        assert reply.readline().startswith(b"data: ")
        os.kill(old, signal.SIGINT)
        *_, last = [line for line in reply if line.startswith(b"data: ")]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "generation_died"
    is_replaced(probed, old, "GenerationDied", "KeyboardInterrupt", name=name)


@pytest.mark.parametrize("busy", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_worker_that_answers_probes_while_its_generation_hangs_is_detected(
    home: Home, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """mlx-lm #1493: `/health` returned 200 for hours while nothing was generated."""
    monkeypatch.setenv("PYTHONPATH", str(home.root))
    (home.root / "sitecustomize.py").write_text(HANGING, "utf-8")
    home.write("a.yaml", name="assistant", model="tiny/llama", context_length=32_768)
    with Daemon(home, "--probe-interval", str(INTERVAL)) as daemon:
        daemon.ready("assistant")
        old = pid(daemon)
        if busy:
            with stream(daemon, ENDLESS) as reply:
                assert reply.readline().startswith(b"data: ")
                os.kill(old, signal.SIGUSR1)
                reply.read()
        else:
            os.kill(old, signal.SIGUSR1)
        is_replaced(daemon, old, "WorkerHung", "made no progress")


def test_a_dead_worker_is_not_listed(shared: Daemon) -> None:
    """exo #2120: the instance of a dead worker stayed in the list."""
    own = copied(shared, "own/removed")
    shared.home.write("removed.yaml", name="removed", model="own/removed")
    old = int(shared.ready("removed")["status"]["worker_pid"])
    shutil.rmtree(own)  # so that it is not loaded again
    os.kill(old, signal.SIGKILL)
    record = shared.eventually("removed", lambda r: r["status"]["worker_pid"] is None)
    assert (record["status"]["config"], record["status"]["restarts"]) == (None, 1)
    # The record may have a worker again, as the loop retries the load.
    states = {m["id"]: m["state"] for m in shared.get("/v1/models")["data"]}
    assert states.get("removed") != "loaded"
    assert "removed" not in shared.loaded()


@pytest.mark.long
def test_a_long_prefill_is_not_a_hang(home: Home) -> None:
    home.write("a.yaml", name="assistant", model="tiny/llama", **PREFILL)
    with Daemon(home, "--probe-interval", str(SHORT)) as daemon:
        daemon.ready("assistant")
        old = pid(daemon)
        begin = time.monotonic()
        length = 4_000
        # Lasts until two intervals are over, on a machine of any speed.
        while time.monotonic() - begin < 2 * SHORT:
            begin = time.monotonic()
            prompt = [n % 200 for n in range(length)]
            reply = stream(daemon, {"prompt": prompt, "max_tokens": 1}).read()
            assert b"[DONE]" in reply
            length = min(2 * length, 32_000)
        record = daemon.get("/api/v1/records/assistant")
        assert (record["status"]["worker_pid"], record["status"]["restarts"]) == (old, 0)
        assert causes(daemon) == []


@pytest.mark.long
def test_a_daemon_that_was_suspended_does_not_take_workers_for_hung(home: Home) -> None:
    """Simulates the machine's sleep: the clock jumps and no worker answered in the meantime."""
    home.write("a.yaml", name="assistant", model="tiny/llama")
    with Daemon(home, "--probe-interval", str(SHORT)) as daemon:
        old = int(daemon.ready("assistant")["status"]["worker_pid"])
        for _ in range(2):
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(2.5 * SHORT)  # the test needs real time to pass
            daemon.process.send_signal(signal.SIGCONT)
            stream(daemon, {"prompt": [7], "max_tokens": 1}).read()
        record = daemon.get("/api/v1/records/assistant")
        assert (record["status"]["worker_pid"], record["status"]["restarts"]) == (old, 0)
        assert causes(daemon) == []


@pytest.mark.long
def test_unloading_and_reloading_are_not_taken_for_deaths(home: Home) -> None:
    with Daemon(home, "--probe-interval", str(SHORT)) as daemon:
        for model in ("tiny/llama", "tiny/qwen3", "tiny/llama"):
            body = {"spec": {"model": model}}
            status, answer = daemon.request("PUT", "/api/v1/records/assistant?wait=ready", body)
            assert status == 200, answer
        assert daemon.unload("assistant")[0] == 200
        assert causes(daemon) == []
        assert "worker died" not in daemon.log()
