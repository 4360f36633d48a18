"""`kill -9` of a worker and of the daemon."""

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from tests.hub import Hub
from tests.support import Daemon, Home, copied


def test_a_killed_worker_is_detected_and_replaced(shared: Daemon) -> None:
    copied(shared, "own/killed")
    shared.home.write("killed.yaml", name="killed", model="own/killed", context_length=100)
    before = shared.ready("killed")["status"]
    os.kill(before["worker_pid"], signal.SIGKILL)
    # Until the death is detected, the record still reports ready.
    shared.eventually("killed", lambda record: record["status"]["restarts"] == 1)
    status = shared.ready("killed")["status"]
    assert status["worker_pid"] != before["worker_pid"]
    assert status["config"] == before["config"]


@pytest.mark.long
def test_a_killed_spare_worker_is_replaced_and_leaves_no_socket(home: Home) -> None:
    with Daemon(home, "--spare-workers", "1") as daemon:
        daemon.load({"model": "tiny/llama"})
        loaded = daemon.ready("tiny/llama")["status"]["worker_pid"]

        def spares() -> list[psutil.Process]:
            return [worker for worker in daemon.workers() if worker.pid != loaded]

        daemon.until(lambda: len(spares()) == 1)
        (spare,) = spares()
        its_socket = Path(spare.cmdline()[-1])
        daemon.until(its_socket.exists)
        spare.kill()
        daemon.until(lambda: [worker.pid for worker in spares()] not in ([], [spare.pid]))
        daemon.until(lambda: {str(s) for s in its_socket.parent.iterdir()} == sockets(daemon))


def sockets(daemon: Daemon) -> set[str]:
    """Sockets of the workers that exist."""
    return {worker.cmdline()[-1] for worker in daemon.workers()}


def test_the_daemons_death_ends_its_fetching_processes(
    home: Home, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git, its helpers and downloads, none of which receives responses any more."""
    with Hub() as hub, socket.create_server(("127.0.0.1", 0)) as silent:
        hub.stop_after = 1000
        hub.add("maker/endless", models / "tiny/llama")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        with Daemon(home, "--git", f"git://127.0.0.1:{silent.getsockname()[1]}/x") as daemon:
            status, _ = daemon.request(
                "POST", "/api/v1/models/download", {"model": "maker/endless"}
            )
            assert status == 200
            started: list[psutil.Process] = []

            def both_are_there() -> bool:
                nonlocal started
                started = psutil.Process(daemon.process.pid).children(recursive=True)
                words = " ".join(word for p in started for word in p.cmdline())
                return "ls-remote" in words and "reconciler.models.fetch" in words

            daemon.until(both_are_there)
            daemon.kill()
            _, alive = psutil.wait_procs(started, timeout=60)
            assert alive == []


def test_workers_end_with_their_daemon_or_when_the_next_one_starts(
    home: Home,
) -> None:
    path = home.write("a.yaml", name="assistant", model="tiny/llama", context_length=100)
    home.write("b.yaml", name="other", model="tiny/llama")
    with Daemon(home) as daemon:
        daemon.ready("assistant")
        workers = daemon.workers()
        assert workers
        daemon.kill()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert alive == []

        daemon.start()
        daemon.ready("assistant")
        workers = daemon.workers()
        for worker in workers:  # a stopped process does not notice that its lifeline closed
            worker.suspend()
        daemon.kill()
        assert all(worker.is_running() for worker in workers)
        path.unlink()
        home.write("b.yaml", name="other", model="tiny/llama", context_length=50)

        daemon.start()
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert alive == []
        daemon.gone("assistant")
        other = daemon.ready("other", generation=2)
    assert other["status"]["config"]["context_length"] == 50
