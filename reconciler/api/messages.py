"""Anthropic's routes."""

from dataclasses import replace

from aiohttp import web

from reconciler.api.describe import describe
from reconciler.api.early_stream import Signs
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError
from reconciler.api.forward import Way, forward
from reconciler.core.dialects import Dialect, anthropic_error

routes = web.RouteTableDef()

MESSAGE = {
    "type": "object",
    "required": ["type", "role", "content", "stop_reason", "usage"],
    "properties": {"type": {"const": "message"}, "content": {"type": "array"}},
}
COUNT = {
    "type": "object",
    "required": ["input_tokens"],
    "properties": {"input_tokens": {"type": "integer"}},
}
ERROR = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
    },
}


def _event(kind: bytes, data: bytes) -> bytes:
    return b"event: " + kind + b"\ndata: " + data + b"\n\n"


def _error_event(error: dict[str, str], status: int) -> bytes:
    return _event(b"error", encode(anthropic_error(error, status)))


def _whole(answer: bytes) -> bytes:
    """Make an event from a worker's error, for a stream that was already started."""
    return _event(b"error", answer)


PING = _event(b"ping", b'{"type": "ping"}')

_MESSAGES = Way(Dialect.MESSAGES, signs=Signs("text/event-stream", PING, _error_event, _whole))
_COUNT = Way(Dialect.COUNT_TOKENS, signs=replace(_MESSAGES.signs, alive=None))


@routes.post("/v1/messages")
@describe({200: MESSAGE}, error=ERROR)
async def messages(request: web.Request) -> web.StreamResponse:
    """Message by a loaded instance in Anthropic's format, whole or as server-sent events."""
    return await forward(request, _MESSAGES)


@routes.post("/v1/messages/count_tokens")
@describe({200: COUNT}, error=ERROR)
async def count_tokens(request: web.Request) -> web.StreamResponse:
    """Number of prompt tokens of a message."""
    return await forward(request, _COUNT)


@routes.post("/v1/messages/batches")
@routes.get("/v1/messages/batches")
@describe({}, error=ERROR)
async def batches(_request: web.Request) -> web.Response:
    """Not supported."""
    words = "batches are not supported; send each request to /v1/messages"
    raise ApiError(400, "invalid_request", words, "not_supported")
