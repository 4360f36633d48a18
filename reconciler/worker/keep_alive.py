"""A stream of server-sent events that gives signs of life while it has nothing to say.

While a long prompt is read, or a request waits its turn, clients and proxies see no byte and give
up. A comment, which readers of server-sent events skip, tells them that somebody is there. Each
write is one whole event, so that a comment never stands in the middle of one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any

from aiohttp import web

KEEP_ALIVE_SECONDS = 5.0
"""Between signs of life. Proxies and clients give up after 10 to 60 s without a byte."""

COMMENT = b": keep-alive\n\n"


class EventStream(web.StreamResponse):
    """Server-sent events, with a comment after each period of silence."""

    def __init__(self) -> None:
        super().__init__(headers={"Content-Type": "text/event-stream"})
        self._written = monotonic()

    async def write(self, data: Any) -> None:
        """Write a whole event. Raises ConnectionResetError if the client is gone."""
        self._written = monotonic()
        await super().write(data)

    async def tick(self, seconds: float) -> None:
        """Write a comment after so many seconds of silence, until the client is gone."""
        with suppress(ConnectionResetError):  # whoever writes the next event is told
            while True:
                await asyncio.sleep(max(0.0, self._written + seconds - monotonic()))
                if monotonic() >= self._written + seconds:
                    await self.write(COMMENT)


@asynccontextmanager
async def opened(request: web.Request) -> AsyncIterator[EventStream]:
    """A stream whose headers are sent and which is kept alive until it is left."""
    stream = EventStream()
    await stream.prepare(request)
    ticking = asyncio.create_task(stream.tick(KEEP_ALIVE_SECONDS))
    try:
        yield stream
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
