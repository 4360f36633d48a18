"""Signs of life for a client that asked for a stream and waits for its model.

A model that is loaded for a request, or a worker that is busy, may take minutes to answer. A client
that waits for a stream gets its headers and a comment after the first period of silence, and
another after each further one. From then on an error can only be told as an event of the stream.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from aiohttp import web

from reconciler.api.encode import encode

KEEP_ALIVE_SECONDS = 5.0
"""Between signs of life. Proxies and clients give up after 10 to 60 s without a byte."""


@dataclass(frozen=True)
class Signs:
    """How a stream of a dialect speaks for the daemon, while the instance does not."""

    content_type: str
    alive: bytes | None
    """What its readers skip; None: there is no such thing, the stream begins with the answer."""
    error: Callable[[dict[str, str], int], bytes]
    """The end of a stream by an error, with the HTTP status that it would have."""
    whole: Callable[[bytes], bytes]
    """An answer that is no stream, as the only piece of one."""
    alive_for: Callable[[str], bytes] | None = None
    """Makes `alive` of the model's name, where it has to say it."""

    def of(self, model: str) -> "Signs":
        """The signs in an answer of that model."""
        return self if self.alive_for is None else replace(self, alive=self.alive_for(model))


class EarlyStream:
    """The stream to a client before there is an answer to copy; a context that ends the ticking."""

    def __init__(self, request: web.Request, signs: Signs, seconds: float) -> None:
        self.reply: web.StreamResponse | None = None
        """The stream, once it had to be begun."""
        self._request = request
        self._signs = signs
        self._seconds = seconds
        self._over = asyncio.Event()
        self._ticking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.end()

    async def end(self) -> web.StreamResponse | None:
        """Send no more comments; the stream, if it was begun, else None."""
        self._over.set()  # it is not cancelled: headers would be half sent
        if self._ticking is not None:
            await asyncio.gather(self._ticking, return_exceptions=True)  # the client may be gone
        return self.reply

    async def _tick(self) -> None:
        while await self._is_silent():
            if self.reply is None:
                headers = {"Content-Type": self._signs.content_type}
                reply = web.StreamResponse(headers=headers)
                self.reply = reply
                await reply.prepare(self._request)
            await self.reply.write(self._signs.alive or b"")

    async def _is_silent(self) -> bool:
        """Wait for a period; True if there was no answer in it."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._over.wait()
        except TimeoutError:
            return True
        return False


def event(data: bytes) -> bytes:
    """An event with these data, which are JSON in one line."""
    return b"data: " + data + b"\n\n"


def _error_event(error: dict[str, str], _status: int) -> bytes:
    return event(encode({"error": error}))


SERVER_SENT_EVENTS = Signs("text/event-stream", b": keep-alive\n\n", _error_event, event)
