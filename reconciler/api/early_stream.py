"""Keep-alive comments for a client that requested a stream and waits for its model.

If a model is loaded for a request, or its worker is busy, the response may take minutes. A client
that waits for a stream gets its headers and a comment after the first period of silence, and
another comment after each further one. From then on, errors can only be sent as events.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from aiohttp import web

from reconciler.api.encode import encode

KEEP_ALIVE_SECONDS = 5.0
"""Interval between comments. Proxies and clients give up after 10 to 60 s without a byte."""


@dataclass(frozen=True)
class Signs:
    """Parts of a dialect's stream that the daemon sends itself, rather than the instance."""

    content_type: str
    alive: bytes | None
    """Comment that readers skip; None if there is none, so that the response begins the stream."""
    error: Callable[[dict[str, str], int], bytes]
    """Makes the end of a stream from an error and the HTTP status that it would have."""
    whole: Callable[[bytes], bytes]
    """Makes the only piece of a stream from a response that is not a stream."""
    alive_for: Callable[[str], bytes] | None = None
    """Makes `alive` from the model's name, if it must contain the name."""

    def of(self, model: str) -> "Signs":
        """The parts for a response of that model."""
        return self if self.alive_for is None else replace(self, alive=self.alive_for(model))


class EarlyStream:
    """Stream to a client before there is a response to copy; leaving the context stops it."""

    def __init__(self, request: web.Request, signs: Signs, seconds: float) -> None:
        self.reply: web.StreamResponse | None = None
        """The stream, once it was started."""
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
        """Stop sending comments. Returns the stream if it was started, else None."""
        self._over.set()  # not cancelled: headers could be half sent
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
        """Wait for one period; True if no response started during it."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._over.wait()
        except TimeoutError:
            return True
        return False


def event(data: bytes) -> bytes:
    """Event with this data, which is JSON in one line."""
    return b"data: " + data + b"\n\n"


def _error_event(error: dict[str, str], _status: int) -> bytes:
    return event(encode({"error": error}))


SERVER_SENT_EVENTS = Signs("text/event-stream", b": keep-alive\n\n", _error_event, event)
