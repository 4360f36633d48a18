"""OpenAI's Responses: answers, of which none is stored."""

from typing import Any, NoReturn

import msgspec
from aiohttp import web

from reconciler.api.describe import describe
from reconciler.api.early_stream import Signs
from reconciler.api.errors import ApiError
from reconciler.api.forward import Way, forward
from reconciler.core import response_events
from reconciler.core.dialects import Dialect

routes = web.RouteTableDef()

_UPGRADE_REQUIRED = 426
"""Codex tries a websocket first where its provider says so, and asks by HTTP at once after this."""


def _error(error: dict[str, str], status: int) -> bytes:
    response = response_events.begun("resp_0", 0, "")
    events = response_events.failure(error, status, response, 0)
    return b"".join(map(response_events.encoded, events))


def _whole(body: bytes) -> bytes:
    """The refusal of a worker as events."""
    error: dict[str, Any] = msgspec.json.decode(body)["error"]
    unavailable = error.get("type") == "unavailable"
    return _error(error, 503 if unavailable else 400)


SIGNS = Signs("text/event-stream", b": keep-alive\n\n", _error, _whole)

_WAY = Way(Dialect.RESPONSES, signs=SIGNS)


@routes.post("/v1/responses")
@describe({200: {"type": "object"}})
async def create(request: web.Request) -> web.StreamResponse:
    """A response by a loaded instance, at once or as server-sent events; nothing is stored."""
    return await forward(request, _WAY)


@routes.get("/v1/responses", allow_head=False)
@describe({})
async def listen(request: web.Request) -> NoReturn:
    """Websockets are not supported."""
    if request.headers.get("Upgrade", "").lower() == "websocket":
        message = "websockets are not supported; use POST /v1/responses"
        raise ApiError(_UPGRADE_REQUIRED, "invalid_request", message, "not_supported")
    raise web.HTTPMethodNotAllowed(request.method, ["POST"])


@routes.get("/v1/responses/{id}", allow_head=False)
@routes.delete("/v1/responses/{id}")
@routes.get("/v1/responses/{id}/input_items", allow_head=False)
@routes.post("/v1/responses/{id}/cancel")
@describe({})
async def stored(request: web.Request) -> NoReturn:
    """No response is stored."""
    message = (
        f"no response {request.match_info['id'][:80]!r}: responses are not stored, whatever "
        "`store` says; keep what POST /v1/responses answers"
    )
    raise ApiError(404, "invalid_request", message, "response_not_found")


@routes.post("/v1/responses/compact")
@routes.post("/v1/responses/input_tokens")
@describe({})
async def unsupported(request: web.Request) -> NoReturn:
    """Not supported."""
    message = f"{request.path} is not supported; POST /v1/responses is"
    raise ApiError(400, "invalid_request", message, "not_supported")
