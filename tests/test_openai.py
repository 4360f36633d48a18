"""OpenAI's routes over a controller that a test steps by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, web
from structlog.testing import capture_logs

from reconciler.api.app import build
from reconciler.core.protocol import Reply


class Answering:
    """A controller whose one instance answers in two pieces."""

    def __init__(self) -> None:
        self.client: ClientSession
        self.runner: web.AppRunner
        self.ended = False

    async def ready_for(self, model: str, _idle_ttl_seconds: int | None = None) -> str:
        return model

    @asynccontextmanager
    async def request(self, *_: object) -> AsyncIterator[Reply]:
        try:
            yield Reply(200, "text/event-stream", self._chunks())
        finally:
            self.ended = True

    async def _chunks(self) -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        for connection in self.runner.server.connections:  # type: ignore[union-attr]
            connection.transport.abort()  # type: ignore[union-attr]
        yield b"data: 2\n\n"


async def test_a_client_that_goes_away_as_it_is_written_to_is_no_error() -> None:
    controller: Any = Answering()
    controller.runner = web.AppRunner(build(controller, "127.0.0.1", None))
    await controller.runner.setup()
    site = web.TCPSite(controller.runner, "127.0.0.1", 0)
    await site.start()
    host, port = controller.runner.addresses[0]
    with capture_logs() as logs:
        async with (
            ClientSession() as client,
            client.post(f"http://{host}:{port}/v1/completions", json={"model": "a"}) as reply,
        ):
            assert await reply.content.readany() == b"data: 1\n\n"
        await controller.runner.cleanup()
    assert controller.ended
    assert logs == []
