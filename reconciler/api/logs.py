"""Output of worker processes."""

from collections.abc import AsyncIterator

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import Query, describe, many, ref
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError, of_problem, reply
from reconciler.api.stream import AFTER, Stream, last_id, streaming
from reconciler.api.turns import Pace
from reconciler.core.errors import Problem, Reason
from reconciler.core.events import LogLine

routes = web.RouteTableDef()

LOST = "some lines were lost"

NAME = Query("name", "Name of the instance.", {"type": "string"})


@routes.get("/api/v1/logs")
@describe({200: many("lines", "log-line")}, query=(NAME,))
async def logs(request: web.Request) -> web.Response:
    """Last lines that the worker process of an instance wrote."""
    lines = [line async for line in _lines(request, follow=False) if line is not None]
    return reply({"lines": lines})


@routes.get("/api/v1/logs/stream")
@describe({200: ref("log-line")}, query=(NAME, AFTER), content_type="text/event-stream")
async def stream(request: web.Request) -> web.StreamResponse:
    """Last and future lines of a worker process, as server-sent events until it ends.

    `Last-Event-ID`, or `after`, resumes the stream. If lines in between are no longer retained, or
    another process has replaced theirs, the first event is `lost`.
    """
    lines, pace = _lines(request, follow=True), Pace()

    async def send_lines(reply: Stream) -> None:
        async for line in lines:
            await pace.wait()
            if line is None:
                await reply.send(encode({"message": LOST}).decode(), event="lost")
            else:
                await reply.send(encode(line).decode(), line.id, "line")

    return await streaming(request, send_lines)


def _lines(request: web.Request, *, follow: bool) -> AsyncIterator[LogLine | None]:
    name = request.query.get("name")
    if not name:
        message = "the query parameter name is required: the instance to read"
        code = "missing_required_parameter"
        raise ApiError(400, "invalid_request", message, code, "name")
    lines = request.app[CONTROLLER].log(name, last_id(request) if follow else None, follow=follow)
    if lines is None:
        message = f"'{name}' has had no worker process since the daemon started"
        raise of_problem(Problem(Reason.UNKNOWN_INSTANCE, message))
    return lines
