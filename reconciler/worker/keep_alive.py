"""Streamed response that sends keep-alive messages while there is no output.

While a long prompt is prefilled, or a request waits, clients and proxies receive no bytes and may
time out. A comment, which readers of server-sent events skip, keeps the connection alive. Each
write is one whole event, so that a comment never splits an event.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from aiohttp import web

KEEP_ALIVE_SECONDS = 5.0
"""Interval of keep-alive messages. Proxies and clients time out after 10 to 60 s without a byte."""


@dataclass(frozen=True)
class Signs:
    """Content type of a stream, and its keep-alive message; None if the format has none."""

    content_type: str
    alive: bytes | None
    alive_for: Callable[[str], bytes] | None = None
    """Makes `alive` from the model's name, if the message must contain it."""

    def of(self, model: str) -> "Signs":
        """Keep-alive messages for a response of `model`."""
        return self if self.alive_for is None else Signs(self.content_type, self.alive_for(model))


SERVER_SENT_EVENTS = Signs("text/event-stream", b": keep-alive\n\n")


class Stream(web.StreamResponse):
    """Streamed response with a keep-alive message after each interval without output."""

    def __init__(self, signs: Signs) -> None:
        super().__init__(headers={"Content-Type": signs.content_type})
        self._alive = signs.alive
        self._make: Callable[[], bytes] | None = None
        self._written = monotonic()

    def make_signs(self, make: Callable[[], bytes]) -> None:
        """Build each keep-alive message by `make` from now on, if no fixed one is valid."""
        self._make = make

    async def write(self, data: Any) -> None:
        """Write a whole event or line. Raises ConnectionResetError if the client disconnected."""
        self._written = monotonic()
        await super().write(data)

    async def tick(self, seconds: float) -> None:
        """Write a message after each `seconds` without output, until the client disconnects."""
        if self._alive is None:
            return
        with suppress(ConnectionResetError):  # the next event's writer gets the error
            while True:
                await asyncio.sleep(max(0.0, self._written + seconds - monotonic()))
                if monotonic() >= self._written + seconds:
                    await self.write(self._make() if self._make else self._alive)


@asynccontextmanager
async def opened(request: web.Request, signs: Signs) -> AsyncIterator[Stream]:
    """Open a stream: send its headers, and keep it alive until the block ends."""
    stream = Stream(signs)
    await stream.prepare(request)
    ticking = asyncio.create_task(stream.tick(KEEP_ALIVE_SECONDS))
    try:
        yield stream
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
