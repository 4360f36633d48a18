"""What happens, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import Query, describe, ref
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError
from reconciler.api.pieces import AT_ONCE
from reconciler.api.stream import Stream, streaming
from reconciler.core.events import Event

routes = web.RouteTableDef()

LOST = "events were lost in between; read the records again"


@routes.get("/api/v1/events")
@describe(
    {200: ref("event")},
    query=(
        Query("after", "Only what came after the event with this id.", {"type": "string"}),
        Query("name", "Only of this record or source.", {"type": "string"}),
        Query(
            "follow", "`false`: end after the events that are kept.", {"enum": ["true", "false"]}
        ),
    ),
    content_type="text/event-stream",
)
async def events(request: web.Request) -> web.StreamResponse:
    """What happens, from the kept events on, as server-sent events.

    `Last-Event-ID`, or `after`, resumes. Where events between are not kept any more, the first
    event is `lost`.
    """
    follow = request.query.get("follow", "true")
    if follow not in ("true", "false"):
        message = f"follow must be true or false, got {follow}"
        raise ApiError(400, "invalid_request", message, "invalid_value", "follow")
    after = request.headers.get("Last-Event-ID") or request.query.get("after")
    feed = request.app[CONTROLLER].events.follow(after, wait=follow == "true")
    name = request.query.get("name")
    return await streaming(request, lambda reply: _send(reply, feed, name))


async def _send(reply: Stream, feed: AsyncIterator[Event | None], name: str | None) -> None:
    """Send what is told until it ends. Raises OSError where the listener goes away."""
    count = 0
    async for event in feed:
        count += 1
        if count % AT_ONCE == 0:  # to send waits for nothing while there is room
            await asyncio.sleep(0)
        if event is None:
            await reply.send(encode({"message": LOST}).decode(), event="lost")
        elif name in (None, event.name):
            await reply.send(encode(event).decode(), event.id, event.type)
