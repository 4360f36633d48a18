"""Commands on connections that fall silent or break, as after the sleep of a laptop.

A server plays a daemon whose first connection of each kind is lost.
"""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from reconciler.cli import client as client_module
from reconciler.cli import downloads, main, reconnecting, records, sockets, top
from reconciler.cli.client import Client, UnreachableError
from reconciler.cli.top import _sample_until

TIME = "2026-01-01T00:00:00Z"


def event(number: int) -> dict[str, Any]:
    return {
        "id": f"run-{number}",
        "time": TIME,
        "type": "record",
        "name": "a",
        "reason": "Changed",
        "message": f"change {number}",
        "line": f"line {number}",
    }


READY = {"type": "Ready", "status": "True", "reason": "Loaded", "message": ""}
RECORD = {"name": "a", "status": {"conditions": [READY]}}
JOB = {"job_id": "j", "model": "p/m", "downloaded_bytes": 1, "total_size_bytes": 2, "error": None}
RESULT = {
    "model_instance_id": "p/m",
    "joined": True,
    "config": {},
    "load_time_seconds": 1.0,
    "warnings": [],
}


class FakeDaemon:
    """A daemon on which the first request of each kind is lost."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.resumed: list[str | None] = []
        self.url = ""

    def is_first(self, request: web.Request) -> bool:
        self.asked[request.path] += 1
        return self.asked[request.path] == 1

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """One event after the one that the client has; then the daemon knows no such stream."""
        last = request.headers.get("Last-Event-ID")
        if last == "run-2":
            return await self.unknown(request)
        self.resumed.append(last)
        number = 1 if last is None else int(last.removeprefix("run-")) + 1
        reply = await begin(request)
        await send(reply, "record", event(number), f"run-{number}")
        if last is None:
            await silence()
        return reply

    async def load(self, request: web.Request) -> web.StreamResponse:
        first, reply = self.is_first(request), await begin(request)
        progress = {"phase": "weights", "bytes_read": 1, "bytes_total": 2}
        await send(reply, "progress", progress)
        if first:
            await silence()
        await send(reply, "result", RESULT)
        return reply

    async def record(self, request: web.Request) -> web.StreamResponse:
        if "wait" in request.query and self.is_first(request):
            await silence()
        return web.json_response(RECORD)

    async def put(self, request: web.Request) -> web.StreamResponse:
        if self.is_first(request):
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(RECORD)

    async def status(self, request: web.Request) -> web.StreamResponse:
        if self.is_first(request):
            await silence()
        return web.json_response(JOB | {"status": "completed"})

    async def silent(self, request: web.Request) -> web.StreamResponse:
        await begin(request)
        await silence()
        raise AssertionError

    async def unknown(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "there is none"}}, status=404)

    async def never(self, request: web.Request) -> web.StreamResponse:
        self.is_first(request)
        await silence()
        raise AssertionError


async def begin(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await reply.prepare(request)
    return reply


async def send(reply: web.StreamResponse, kind: str, data: Any, id_: str = "-") -> None:
    await reply.write(f"id: {id_}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())


async def silence() -> None:
    await asyncio.Event().wait()


@pytest.fixture
async def daemon(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeDaemon]:
    monkeypatch.setattr(reconnecting, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(downloads, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(records, "LONGEST_QUESTION", 0.1)
    for module in (client_module, records):
        monkeypatch.setattr(module, "SILENCE_SECONDS", 0.3)
    for module in (downloads, top):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.3)
    fake = FakeDaemon()
    app = web.Application()
    for path in ("/api/v1/events", "/api/v1/logs/stream"):
        app.router.add_get(path, fake.stream)
    app.router.add_get("/api/v1/records/a", fake.record)
    app.router.add_put("/api/v1/records/a", fake.put)
    app.router.add_get("/api/v1/models/download/status/j", fake.status)
    app.router.add_post("/api/v1/models/load", fake.load)
    app.router.add_post("/v1/chat/completions", fake.silent)
    app.router.add_get("/api/v1/node", fake.never)
    for path in ("/api/v1/records", "/api/v1/instances"):
        app.router.add_get(path, answering({"records": [], "instances": []}))
    app.router.add_get("/api/v1/records/{name:.+}", fake.unknown)
    listed = {"downloads": [JOB | {"status": "downloading"}]}
    app.router.add_get("/api/v1/models/download", answering(listed))
    plan: dict[str, Any] = {"refused": [], "changes": [], "actions": []}
    app.router.add_post("/api/v1/plan", answering(plan))
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


def answering(data: Any) -> Any:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response(data)

    return answer


async def invoke(daemon: FakeDaemon, *words: str, text: str | None = None) -> Result:
    env = {"RECONCILER_URL": daemon.url}
    return await asyncio.to_thread(CliRunner().invoke, main, words, env=env, input=text)


@pytest.mark.parametrize("words", [("events", "-f"), ("logs", "-f", "a")])
async def test_a_silent_stream_is_resumed_after_its_last_event(
    daemon: FakeDaemon, words: tuple[str, ...]
) -> None:
    result = await invoke(daemon, *words)
    code = 4 if words[0] == "events" else 0  # the log ends with its process
    assert (result.exit_code, daemon.resumed[0], daemon.resumed[-1]) == (code, None, "run-1")
    shown = [line.split()[-1] for line in result.stdout.splitlines()]
    assert shown == ["1", "2"]
    assert f"lost the connection to {daemon.url}; reconnecting\n" in result.stderr


async def test_a_load_whose_connection_is_silent_is_sent_again(daemon: FakeDaemon) -> None:
    result = await invoke(daemon, "load", "p/m")
    assert (result.exit_code, "p/m is already loaded" in result.stdout) == (0, True)
    assert daemon.asked["/api/v1/models/load"] >= 2


MANIFEST = """
apiVersion: reconciler/v1
kind: ModelInstance
metadata: {name: a}
spec: {model: p/m}
"""


@pytest.mark.parametrize(
    "words", [("wait", "a"), ("apply", "--wait", "-f", "-"), ("downloads", "watch", "j")]
)
async def test_a_wait_whose_connection_is_lost_is_repeated(
    daemon: FakeDaemon, words: tuple[str, ...]
) -> None:
    result = await invoke(daemon, *words, text=MANIFEST)
    assert result.exit_code == 0, result.output
    assert max(daemon.asked.values()) >= 2


async def test_a_wait_ends_at_its_deadline_without_a_connection(daemon: FakeDaemon) -> None:
    result = await invoke(daemon, "wait", "a", "--timeout", "0s")
    assert (result.exit_code, "nothing was received for 0.3 s" in result.stderr) == (3, True)


async def test_a_silent_chat_is_an_error(daemon: FakeDaemon) -> None:
    result = await invoke(daemon, "run", "p/m", "a question")
    assert (result.exit_code, "nothing was received for 0.3 s" in result.stderr) == (3, True)


async def test_a_daemon_that_does_not_respond_again_is_an_error(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnecting, "RECONNECT_SECONDS", 0.0)
    result = await invoke(daemon, "events", "-f")
    assert (result.exit_code, daemon.resumed) == (3, [None])
    assert "nothing was received for 0.3 s" in result.stderr


async def test_top_notices_silence_and_ends_during_it(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aiohttp.ClientSession() as session:
        client = Client(daemon.url, session)
        with pytest.raises(UnreachableError, match="nothing was received"):
            await _sample_until(asyncio.Event(), client)
        monkeypatch.setattr(top, "POLL_SECONDS", 1e6)
        ended = asyncio.Event()
        sampling = asyncio.create_task(_sample_until(ended, client))
        while daemon.asked["/api/v1/node"] < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
        ended.set()
        assert await sampling is None


def test_the_kernel_probes_silent_connections() -> None:
    address = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ())
    with sockets.probed(address) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        assert [made.getsockopt(socket.IPPROTO_TCP, one) for one in options] == [5, 5]
