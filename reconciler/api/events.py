"""Events of the daemon, as server-sent events."""

from collections.abc import AsyncIterator

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import Query, describe, ref
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError
from reconciler.api.stream import AFTER, Stream, last_id, streaming
from reconciler.api.turns import Pace
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
    pace = Pace()
    return await streaming(request, lambda reply: _send(reply, feed, name, pace))


async def _send(
    reply: Stream, feed: AsyncIterator[Event | None], name: str | None, pace: Pace
) -> None:
    """Send a feed until it ends. Raises OSError if the client disconnects."""
    async for event in feed:
        await pace.wait()
        if event is None:
            await reply.send(encode({"message": LOST}).decode(), event="lost")
        elif name in (None, event.name):
            await reply.send(encode(event).decode(), event.id, event.type)
