"""An answer in pieces that gives signs of life while it has nothing to say.

While a long prompt is read, or a request waits its turn, clients and proxies see no byte and give
up. A comment, which readers of server-sent events skip, tells them that somebody is there. Each
write is one whole event, so that a comment never stands in the middle of one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

from aiohttp import web

KEEP_ALIVE_SECONDS = 5.0
"""Between signs of life. Proxies and clients give up after 10 to 60 s without a byte."""


@dataclass(frozen=True)
class Signs:
    """The kind of a stream, and what its readers skip; None: nothing that is not read."""

    content_type: str
    alive: bytes | None
    alive_for: Callable[[str], bytes] | None = None
    """Makes `alive` of the model's name, where it has to say it."""

    def of(self, model: str) -> "Signs":
        """The signs in an answer of that model."""
        return self if self.alive_for is None else Signs(self.content_type, self.alive_for(model))


SERVER_SENT_EVENTS = Signs("text/event-stream", b": keep-alive\n\n")


class Stream(web.StreamResponse):
    """An answer as it comes, with a sign of life after each period of silence."""

    def __init__(self, signs: Signs) -> None:
        super().__init__(headers={"Content-Type": signs.content_type})
        self._alive = signs.alive
        self._make: Callable[[], bytes] | None = None
        self._written = monotonic()

    def make_signs(self, make: Callable[[], bytes]) -> None:
        """Have each sign made from now on, where its readers know no fixed one."""
        self._make = make

    async def write(self, data: Any) -> None:
        """Write a whole event or line. Raises ConnectionResetError if the client is gone."""
        self._written = monotonic()
        await super().write(data)

    async def tick(self, seconds: float) -> None:
        """Write a sign after so many seconds of silence, until the client is gone."""
        if self._alive is None:
            return
        with suppress(ConnectionResetError):  # whoever writes the next event is told
            while True:
                await asyncio.sleep(max(0.0, self._written + seconds - monotonic()))
                if monotonic() >= self._written + seconds:
                    await self.write(self._make() if self._make else self._alive)


@asynccontextmanager
async def opened(request: web.Request, signs: Signs) -> AsyncIterator[Stream]:
    """A stream whose headers are sent and which is kept alive until it is left."""
    stream = Stream(signs)
    await stream.prepare(request)
    ticking = asyncio.create_task(stream.tick(KEEP_ALIVE_SECONDS))
    try:
        yield stream
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
