"""Server-sent events whose source fails."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from reconciler.api.stream import Stream, streaming


@pytest.mark.parametrize(
    ("error", "events"),
    [(KeyError("words"), ["stream failed unexpectedly"]), (ConnectionResetError("gone"), [])],
)
async def test_a_stream_error_is_logged_unless_the_client_disconnected(
    error: Exception, events: list[str]
) -> None:
    async def fail(stream: Stream) -> None:
        await stream.send("one")
        raise error

    async def handle(request: web.Request) -> web.StreamResponse:
        return await streaming(request, fail)

    app = web.Application()
    app.router.add_get("/", handle)
    with capture_logs() as logs:
        async with TestClient(TestServer(app)) as client:
            reply = await asyncio.wait_for(client.get("/"), 10)
            assert await reply.text() == "data: one\r\n\r\n"
    assert [line["event"] for line in logs] == events
    assert "words" not in str(logs)
