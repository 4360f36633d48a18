"""A thousand simultaneous loads, and three thousand connections where a shell allows 256 files."""

import asyncio
import resource
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
import pytest

from tests.support import Daemon, Home, environment

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

SOFT = 256
"""Default soft limit of file descriptors in a shell on macOS."""

LOADS = 1000
CONNECTIONS = 3000


class Frugal(Daemon):
    """A daemon started by such a shell."""

    limits = f"ulimit -S -n {SOFT}"

    def launch(self) -> None:
        self._log = (self.home.root / "log").open("ab")
        self.process = subprocess.Popen(
            [
                *("/bin/sh", "-c", f'{self.limits}; exec "$@"', "sh"),
                *(sys.executable, "-m", "reconciler", "serve", *self._options),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(),
        )


@pytest.fixture
def daemon(home: Home) -> Iterator[Daemon]:
    with Frugal(home) as running:
        yield running


@asynccontextmanager
async def watched(daemon: Daemon) -> AsyncIterator[Counter[int]]:
    """Yield the counted statuses of /health, which is requested continuously."""
    statuses: Counter[int] = Counter()
    done = asyncio.Event()

    async def watch() -> None:
        async with aiohttp.ClientSession() as session:
            while not done.is_set():
                async with session.get(f"{daemon.url}/health") as reply:
                    statuses[reply.status] += 1
                await asyncio.sleep(0.01)

    watching = asyncio.create_task(watch())
    try:
        yield statuses
    finally:
        done.set()
        await watching


async def load_all(daemon: Daemon, bodies: list[Any]) -> Counter[tuple[int, str]]:
    """Send these loads at once; count the answers by status and code."""
    answers: Counter[tuple[int, str]] = Counter()
    forever = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)

    async def load(session: aiohttp.ClientSession, body: Any) -> None:
        async with session.post(f"{daemon.url}/api/v1/models/load", json=body) as reply:
            answer = await reply.json()
            answers[reply.status, answer.get("error", {}).get("code", "loaded")] += 1

    async with (
        aiohttp.ClientSession(connector=connector, timeout=forever) as session,
        asyncio.TaskGroup() as group,
    ):
        for body in bodies:
            group.create_task(load(session, body))
    return answers


async def test_each_of_a_thousand_simultaneous_loads_is_answered(daemon: Daemon) -> None:
    unknown = [{"model": f"no/such{i}"} for i in range(LOADS)]
    assert await load_all(daemon, unknown) == {(404, "model_not_found"): LOADS}
    same = [{"model": "tiny/llama"}] * LOADS
    assert await load_all(daemon, same) == {(200, "loaded"): LOADS}
    named = [{"model": "tiny/llama", "instance_id": f"n{i}"} for i in range(LOADS)]
    async with watched(daemon) as health:
        answers = await load_all(daemon, named)
    assert answers[200, "loaded"] > 0
    assert answers[200, "loaded"] + answers[503, "insufficient_memory"] == LOADS
    # Each load was decided separately: in one batch, /health would be answered only a few times.
    assert set(health) == {200}
    assert health[200] > answers[200, "loaded"] // 5
    assert "Traceback" not in daemon.log()


def test_thousands_of_idle_connections_block_no_other(daemon: Daemon) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CONNECTIONS + 500:
        pytest.skip("this test needs more file descriptors itself")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    address = urlsplit(daemon.url)
    place = (address.hostname or "", address.port or 0)
    daemon.load({"model": "tiny/llama"})
    idle = [socket.create_connection(place) for _ in range(CONNECTIONS)]
    try:
        slow = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        for wire in idle[::2]:
            wire.sendall(slow)
        assert daemon.get("/health")["status"] == "ok"
        daemon.load({"model": "tiny/qwen3"})
        body = {"model": "tiny/llama", "prompt": "a", "max_tokens": 2}
        assert daemon.request("POST", "/v1/completions", body)[0] == 200
        if sys.platform == "linux":  # only Linux can read the limits of another process
            for process in (psutil.Process(daemon.process.pid), *daemon.workers()):
                assert process.rlimit(psutil.RLIMIT_NOFILE)[0] == hard
    finally:
        for wire in idle:
            wire.close()
    assert "Traceback" not in daemon.log()
    assert "asyncio" not in daemon.log()


class Poor(Frugal):
    """A daemon that cannot raise its limit."""

    limits = "ulimit -n 300"


def test_idle_connections_make_way_if_descriptors_run_out(home: Home) -> None:
    with Poor(home) as daemon:
        address = urlsplit(daemon.url)
        place = (address.hostname or "", address.port or 0)
        idle = [socket.create_connection(place) for _ in range(300)]
        try:
            assert daemon.get("/health")["status"] == "ok"
            daemon.load({"model": "tiny/llama"})
            assert psutil.Process(daemon.process.pid).num_fds() < 300
        finally:
            for wire in idle:
                wire.close()
        log = daemon.log()
        assert "too many connections" in log
        assert log.count("too many connections") < 3
        assert "Traceback" not in log
