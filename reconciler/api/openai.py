"""OpenAI's routes."""

from aiohttp import web

from reconciler.api import model_pages
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.errors import ANTHROPIC_VERSION, reply
from reconciler.api.forward import Way, forward
from reconciler.core.dialects import Dialect

routes = web.RouteTableDef()

LIST = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array"}},
}

_CHAT = Way(Dialect.CHAT)
_TEXT = Way(Dialect.TEXT)


@routes.get("/v1/models")
@describe({200: {"anyOf": [LIST, model_pages.PAGE]}})
async def models(request: web.Request) -> web.Response:
    """The loaded instances, as OpenAI's or Anthropic's clients list models."""
    data = [
        {
            "id": answer.record.name,
            "object": "model",
            "created": int(answer.record.created_at.timestamp()),
            "owned_by": "reconciler",
        }
        for answer in request.app[CONTROLLER].answers()
        if answer.status.config is not None
    ]
    if ANTHROPIC_VERSION in request.headers:
        return reply(model_pages.page(data, request.query))
    return reply({"object": "list", "data": data})


@routes.post("/v1/chat/completions")
@describe({200: {"type": "object"}})
async def chat(request: web.Request) -> web.StreamResponse:
    """A chat completion by a loaded instance, at once or as server-sent events."""
    return await forward(request, _CHAT)


@routes.post("/v1/completions")
@describe({200: {"type": "object"}})
async def completions(request: web.Request) -> web.StreamResponse:
    """A text completion by a loaded instance, at once or as server-sent events."""
    return await forward(request, _TEXT)
