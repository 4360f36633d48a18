"""Server-sent events that end when the sender returns or the client disconnects."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from reconciler.api.describe import Query
from reconciler.api.frames import frames

log = structlog.get_logger()

Stream = EventSourceResponse
Sender = Callable[[Stream], Awaitable[None]]


AFTER = Query("after", "Only what follows the event with this ID.", {"type": "string"})


def last_id(request: web.Request) -> str | None:
    """The id after which a client resumes a stream."""
    return request.headers.get("Last-Event-ID") or request.query.get("after")


async def streaming(request: web.Request, send: Sender) -> web.StreamResponse:
    """Stream the output of `send` until it returns or the client disconnects."""
    async with sse_response(request, allow_all_methods=True) as reply:
        sending = asyncio.ensure_future(send(reply))
        gone = asyncio.create_task(reply.wait())
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            gone.cancel()
            failed, _ = await asyncio.gather(sending, gone, return_exceptions=True)
            if isinstance(failed, Exception) and not isinstance(failed, OSError):
                log.error("stream failed unexpectedly", path=request.path, trace=frames(failed))
    return reply
