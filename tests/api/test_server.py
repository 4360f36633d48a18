"""Connections: deadlines, refusals, and errors that no middleware sees."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from reconciler.api import body, server
from reconciler.api.connections import Closable, Connections
from reconciler.api.errors import errors

SHORT = 0.05
"""Deadline in seconds for tests that wait for it."""

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[], Awaitable[Opened]]


async def nothing(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def length(request: web.Request) -> web.Response:
    data = await body.receive(request, body.MAX_BYTES)
    return web.json_response({"length": len(data)})


async def large(_request: web.Request) -> web.Response:
    return web.Response(body=bytes(50_000_000))


async def twice(request: web.Request) -> web.StreamResponse:
    begun = web.StreamResponse()
    await begun.prepare(request)
    await begun.write(b"half")
    raise ValueError(request.headers["Authorization"])


class Counted(Connections):
    """Sets an event when the last connection is closed."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.emptied = asyncio.Event()

    def forget(self, connection: Closable) -> None:
        super().forget(connection)
        if not len(self):
            self.emptied.set()


@pytest.fixture
def connections() -> Counted:
    return Counted(100)


@pytest.fixture
async def opened(connections: Connections) -> AsyncIterator[Open]:
    """Run a server; yield a function that connects to it."""
    app = web.Application(middlewares=[errors])
    app.add_routes(
        [
            web.get("/", nothing),
            web.post("/", length),
            web.get("/large", large),
            web.get("/twice", twice),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.0, handler_cancellation=True)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    listening = await server.listen(runner, listener, connections)
    address = listener.getsockname()[:2]
    writers = []

    async def connect() -> Opened:
        reader, writer = await asyncio.open_connection(*address)
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()
    listening.close()
    await runner.cleanup()


async def answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """Status and body of the next response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    size = int(head.partition("content-length: ")[2].split("\r\n")[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(size) or b"null")


async def test_incomplete_headers_time_out(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", SHORT)
    reader, writer = await opened()
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    assert await reader.read() == b""


async def test_a_connection_without_a_request_is_closed(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", SHORT)
    reader, _ = await opened()
    assert await reader.read() == b""


async def test_headers_may_arrive_in_chunks(opened: Open) -> None:
    reader, writer = await opened()
    for piece in (b"GET / HT", b"TP/1.1\r\nHo", b"st: localhost\r\n\r", b"\n"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_an_incomplete_body_times_out(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "PATIENCE_SECONDS", SHORT)
    reader, writer = await opened()
    writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab")
    status, error = await answer(reader)
    assert (status, error["error"]["code"]) == (408, "request_timeout")
    assert "2 bytes were received" in error["error"]["message"]


async def test_a_client_that_does_not_read_is_disconnected(
    opened: Open, connections: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STALL_SECONDS", SHORT)
    reader, writer = await opened()
    writer.write(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await connections.emptied.wait()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(50_000_000)


async def test_a_started_response_is_not_followed_by_another(opened: Open) -> None:
    reader, writer = await opened()
    head = b"GET /twice HTTP/1.1\r\nHost: localhost\r\nAuthorization: token-zirconium-4711\r\n\r\n"
    with capture_logs() as logged:
        writer.write(head)
        content = await reader.read()
    assert content.endswith(b"half\r\n")
    assert content.count(b"HTTP/1.1") == 1
    assert "ValueError" in str(logged)
    assert "zirconium" not in str(logged)


async def test_a_connection_over_the_limit_replaces_an_idle_one_or_is_refused(
    opened: Open, connections: Connections
) -> None:
    connections.limit = 2
    idle = await opened()
    busy = await opened()
    busy[1].write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n")
    idle[1].write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await idle[0].readline()).startswith(b"HTTP/1.1 200")
    third = await opened()
    third[1].write(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n")
    assert await idle[0].read()  # the rest, then end of file
    fourth = await opened()
    status, error = await answer(fourth[0])
    assert (status, error["error"]["code"]) == (503, "too_many_connections")
    assert await fourth[0].read() == b""
    for reader, writer in (busy, third):
        writer.write(b"{}")
        assert await answer(reader) == (200, {"length": 2})
