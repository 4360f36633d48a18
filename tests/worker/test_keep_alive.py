"""Test keep-alive comments of a stream that has no events yet."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any

import pytest
from aiohttp import ClientSession, web

from reconciler.worker import keep_alive
from reconciler.worker.keep_alive import SERVER_SENT_EVENTS, Stream, opened

COMMENT = b": keep-alive\n\n"

EVENT = b"data: 1\n\n"


class Worker:
    """Send one event when the test allows it, and another at once."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.make: Callable[[], bytes] | None = None
        self.gone = asyncio.Event()
        """Set when the client disconnected during the wait."""
        self.runner: Any = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        async with opened(request, SERVER_SENT_EVENTS) as stream:
            if self.make is not None:
                stream.make_signs(self.make)
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.gone.set()
                raise
            await stream.write(EVENT)
            await stream.write(EVENT)
            return stream


@pytest.fixture
async def worker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    monkeypatch.setattr(keep_alive, "KEEP_ALIVE_SECONDS", 0)
    worker = Worker()
    app = web.Application()
    app.router.add_get("/", worker.answer)
    worker.runner = web.AppRunner(app, handler_cancellation=True)
    await worker.runner.setup()
    await web.TCPSite(worker.runner, "127.0.0.1", 0).start()
    yield worker
    await worker.runner.cleanup()


def url(worker: Worker) -> str:
    host, port = worker.runner.addresses[0]
    return f"http://{host}:{port}/"


async def test_comments_are_sent_until_the_first_event(worker: Worker) -> None:
    async with ClientSession() as client, client.get(url(worker)) as reply:
        assert reply.content_type == "text/event-stream"
        assert await reply.content.readexactly(3 * len(COMMENT)) == 3 * COMMENT
        worker.go_on.set()
        assert (await reply.read()).replace(COMMENT, b"") == 2 * EVENT


async def test_a_comment_may_be_created_each_time(worker: Worker) -> None:
    numbers = count()
    worker.make = lambda: b"data: %d\n\n" % next(numbers)
    async with ClientSession() as client, client.get(url(worker)) as reply:
        signs = await reply.content.readexactly(3 * len(EVENT))
        assert signs == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
        worker.go_on.set()
        assert (await reply.read()).endswith(2 * EVENT)


async def test_comments_end_when_the_client_disconnects(worker: Worker) -> None:
    async with ClientSession() as client, client.get(url(worker)) as reply:
        await reply.content.readexactly(len(COMMENT))
    await worker.gone.wait()


async def test_a_comment_follows_a_period_of_silence_whenever_it_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    written: list[tuple[float, bytes]] = []
    events = [0.25, 7.0]

    async def write(_stream: Any, data: bytes) -> None:
        written.append((now, data))

    async def sleep(seconds: float) -> None:
        nonlocal now
        end = now + seconds
        while events and events[0] <= end:
            now = events.pop(0)
            await stream.write(EVENT)
        now = end
        if now > 20:
            raise ConnectionResetError

    monkeypatch.setattr(web.StreamResponse, "write", write)
    monkeypatch.setattr(keep_alive, "monotonic", lambda: now)
    stream = Stream(SERVER_SENT_EVENTS)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await stream.tick(5.0)
    assert written == [
        (0.25, EVENT),
        (5.25, COMMENT),
        (7.0, EVENT),
        (12.0, COMMENT),
        (17.0, COMMENT),
    ]
