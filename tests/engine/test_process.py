"""Exit of a worker process, as its callers see it."""

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from structlog.testing import capture_logs

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.protocol import LoadWeights, OpenSession, SessionOpened
from reconciler.core.records import RequestedSettings
from reconciler.core.settings import resolve
from reconciler.engine import process as module
from reconciler.engine import sockets
from reconciler.engine.process import WorkerProcess, worker_environment
from reconciler.host.spawn import spawn
from reconciler.models.checkpoint import read_facts

ASKED = {"prompt": [7], "max_tokens": 30_000, "stream": True, "temperature": 0}
ENDLESS = json.dumps(ASKED).encode()
"""Greedy decoding: a sampled response could end by chance."""


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[WorkerProcess]:
    """A worker that has just been started: most tests end it before its imports are done."""
    directory = sockets.prepare(tmp_path)
    worker = await WorkerProcess.start(directory, "off")
    yield worker
    await worker.end()
    sockets.remove(directory)


async def test_a_reader_of_an_ended_worker_gets_the_reason(
    worker: WorkerProcess, models: Path
) -> None:
    checkpoint = read_facts(models / "tiny/llama")
    config = resolve(RequestedSettings(), checkpoint, (await worker.ready()).machine).config
    await worker.load_weights(LoadWeights(checkpoint.path), lambda _: None)
    await worker.ask("PUT", "sessions/1", OpenSession(config), SessionOpened)
    async with worker.stream("sessions/1/completions", ENDLESS, {}) as reply:
        await anext(reply.chunks)
        ending = asyncio.create_task(worker.end())
        with pytest.raises(LoadError) as raised:
            async for _ in reply.chunks:
                pass
        await ending
    assert raised.value.problem.reason is Reason.WORKER_DIED


async def test_a_request_to_a_worker_known_to_be_dead_fails_as_died(
    worker: WorkerProcess,
) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(2):  # the first finds out, and closes the second's connection
        with pytest.raises(LoadError, match="killed from outside by SIGKILL") as raised:
            await worker.ask("DELETE", "sessions/1", None, type(None))
        assert raised.value.problem.reason is Reason.WORKER_KILLED


async def test_a_large_body_is_sent_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending 15 MB in one step of the event loop blocked all other streams for 20 ms."""
    received: list[bytes] = []

    async def receive(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response(text=request.headers["Content-Length"])

    app = web.Application(client_max_size=2**24)
    app.router.add_post("/sessions/1/completions", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    process, exited, _ = await spawn("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    worker = WorkerProcess(process, exited, tmp_path / "socket")
    body = os.urandom(10 * module.PIECE_BYTES + 1)
    sent: list[int] = []
    pieces = module._pieces

    async def noted(body: bytes) -> AsyncIterator[memoryview]:
        async for piece in pieces(body):
            sent.append(len(piece))
            yield piece

    monkeypatch.setattr(module, "_pieces", noted)
    async with worker.stream("sessions/1/completions", body, {}) as reply:
        assert [chunk async for chunk in reply.chunks] == [str(len(body)).encode()]
    assert received == [body]
    assert sent == [module.PIECE_BYTES] * 10 + [1]
    await worker.end()
    await runner.cleanup()


async def test_a_signal_to_the_daemons_group_does_not_reach_a_worker(
    worker: WorkerProcess,
) -> None:
    """A terminal's Ctrl-C, or `kill -- -GROUP`: the daemon drains its workers itself."""
    assert os.getpgid(worker.pid) == os.getsid(worker.pid) == worker.pid


async def test_a_killed_worker_is_not_alive_until_the_kernel_has_ended_it(
    worker: WorkerProcess,
) -> None:
    """A spare worker that hung on one checkpoint was used for the load of another."""
    worker.kill(Problem(Reason.WORKER_HUNG, "it hung", permanent=False))
    assert not worker.alive


async def test_a_worker_that_the_kernel_cannot_end_blocks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL has no effect while a worker is in a hanging call to a driver or a disk."""
    directory = sockets.prepare(tmp_path)
    worker = await WorkerProcess.start(directory, "off")
    await worker.ready()
    socket = worker._socket
    assert socket.exists()
    monkeypatch.setattr(module, "END_SECONDS", 0.0)
    monkeypatch.setattr(module, "KILL_SECONDS", 0.0)
    monkeypatch.setattr(worker._process, "kill", lambda: None)
    os.kill(worker.pid, signal.SIGSTOP)  # it does not notice that its lifeline closes
    try:
        with capture_logs() as logs:
            await worker.end()
    finally:
        os.kill(worker.pid, signal.SIGKILL)
    assert [(line["event"], line["pid"]) for line in logs] == [("worker does not exit", worker.pid)]
    assert not socket.exists()
    assert worker.died().reason is Reason.WORKER_HUNG
    await worker.wait()
    sockets.remove(directory)


async def test_children_of_a_dead_worker_are_ended(tmp_path: Path) -> None:
    process, exited, _ = await spawn(
        *("sh", "-c", "sleep 600 & echo $!; read _; kill -9 $$"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    child = psutil.Process(int(await process.stdout.readline()))
    worker = WorkerProcess(process, exited, tmp_path / "socket")
    process.stdin.write(b"go on\n")
    await worker.wait()
    await worker.end()
    await asyncio.to_thread(child.wait, 10)


MMAP = "glibc.malloc.mmap_threshold=4194304"


@pytest.mark.parametrize(
    ("theirs", "found"),
    [
        ({}, MMAP),
        ({"GLIBC_TUNABLES": ""}, MMAP),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}, f"{MMAP}:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": f"a=b:{MMAP}0"}, f"a=b:{MMAP}0"),
        ({"MALLOC_MMAP_THRESHOLD_": "9"}, None),
    ],
)
def test_the_users_tunables_are_kept_and_win(theirs: dict[str, str], found: str | None) -> None:
    assert worker_environment(theirs).get("GLIBC_TUNABLES") == found
