"""OpenAI's Responses API, without stored responses."""

from typing import NoReturn

import msgspec
from aiohttp import web

from reconciler.api.describe import describe
from reconciler.api.early_stream import Signs
from reconciler.api.encode import whole
from reconciler.api.errors import ApiError
from reconciler.api.forward import Way, forward
from reconciler.core import response_events
from reconciler.core.dialects import Dialect

routes = web.RouteTableDef()

_UPGRADE_REQUIRED = 426
"""Codex tries a websocket first if its provider has one; after this status it uses HTTP at once."""


RESPONSE = {
    "type": "object",
    "required": ["id", "object", "status", "output", "store", "usage"],
    "properties": {
        "object": {"const": "response"},
        "status": {"enum": ["completed", "incomplete"]},
        "output": {"type": "array", "items": {"type": "object", "required": ["id", "type"]}},
        "store": {"const": False},
    },
}
COUNT = {
    "type": "object",
    "required": ["object", "input_tokens"],
    "properties": {
        "object": {"const": "response.input_tokens"},
        "input_tokens": {"type": "integer"},
    },
}


def _error(error: dict[str, str], status: int) -> bytes:
    error = {key: whole(value) for key, value in error.items()}
    response = response_events.begun("resp_0", 0, "")
    events = response_events.failure(error, status, response, 0)
    return b"".join(map(response_events.encoded, events))


def _refusal(body: bytes) -> bytes:
    """Convert the error of a worker into events."""
    error = msgspec.json.decode(body, type=_Refused).error
    status = {"invalid_request": 400, "unavailable": 503}.get(error["type"], 500)
    return _error(error, status)


class _Refused(msgspec.Struct):
    """Body of a worker's error; an unexpected error has another format."""

    error: dict[str, str] = msgspec.field(
        default_factory=lambda: {
            "type": "internal_error",
            "code": "internal_error",
            "message": "internal error; the log has the details",
        }
    )


SIGNS = Signs("text/event-stream", b": keep-alive\n\n", _error, _refusal)

_RESPONSES = Way(Dialect.RESPONSES, signs=SIGNS)
_COUNT = Way(Dialect.RESPONSES_INPUT_TOKENS)


@routes.post("/v1/responses")
@describe({200: RESPONSE})
async def create(request: web.Request) -> web.StreamResponse:
    """Response by a loaded instance, whole or as server-sent events; nothing is stored."""
    return await forward(request, _RESPONSES)


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
    """Not supported: responses are not stored."""
    message = (
        f"no response {request.match_info['id'][:80]!r}: responses are not stored, "
        "regardless of `store`; keep the response of POST /v1/responses"
    )
    raise ApiError(404, "invalid_request", message, "response_not_found")


@routes.post("/v1/responses/input_tokens")
@describe({200: COUNT})
async def input_tokens(request: web.Request) -> web.StreamResponse:
    """Number of prompt tokens of a response."""
    return await forward(request, _COUNT)


@routes.post("/v1/responses/compact")
@describe({})
async def compact(_request: web.Request) -> NoReturn:
    """Not supported."""
    message = "compaction is not supported; request a summary with POST /v1/responses"
    raise ApiError(400, "invalid_request", message, "not_supported")
