"""Events of the daemon, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import Query, describe, ref
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError
from reconciler.api.pieces import AT_ONCE
from reconciler.api.stream import AFTER, Stream, last_id, streaming
from reconciler.core.events import Event

routes = web.RouteTableDef()

LOST = "some events were lost; read the records again"


@routes.get("/api/v1/events")
@describe(
    {200: ref("event")},
    query=(
        AFTER,
        Query("name", "Only events of this record or source.", {"type": "string"}),
        Query("follow", "`false`: end after the retained events.", {"enum": ["true", "false"]}),
    ),
    content_type="text/event-stream",
)
async def events(request: web.Request) -> web.StreamResponse:
    """Stream events, starting with the retained ones, as server-sent events.

    `Last-Event-ID`, or `after`, resumes the stream. If events in between are no longer retained,
    the first event is `lost`.
    """
    follow = request.query.get("follow", "true")
    if follow not in ("true", "false"):
        message = f"follow must be true or false, got {follow}"
        raise ApiError(400, "invalid_request", message, "invalid_value", "follow")
    feed = request.app[CONTROLLER].events.follow(last_id(request), wait=follow == "true")
    name = request.query.get("name")
    return await streaming(request, lambda reply: _send(reply, feed, name))


async def _send(reply: Stream, feed: AsyncIterator[Event | None], name: str | None) -> None:
    """Send a feed until it ends. Raises OSError if the client disconnects."""
    count = 0
    async for event in feed:
        count += 1
        if count % AT_ONCE == 0:  # sending does not yield while the buffer has room
            await asyncio.sleep(0)
        if event is None:
            await reply.send(encode({"message": LOST}).decode(), event="lost")
        elif name in (None, event.name):
            await reply.send(encode(event).decode(), event.id, event.type)
