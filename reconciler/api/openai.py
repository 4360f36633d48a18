"""OpenAI's routes."""

from aiohttp import web

from reconciler.api import model_pages
from reconciler.api.askable import askable, askable_one
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.errors import ANTHROPIC_VERSION, ApiError, reply
from reconciler.api.forward import Way, forward
from reconciler.controller import Availability
from reconciler.core.dialects import Dialect

routes = web.RouteTableDef()

LIST = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array"}},
}

MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "state"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "state": {"enum": list(Availability)},
        "alias_of": {"type": "string"},
    },
}

_CHAT = Way(Dialect.CHAT)
_TEXT = Way(Dialect.TEXT)


@routes.get("/v1/models")
@describe({200: {"anyOf": [LIST, model_pages.PAGE]}})
async def models(request: web.Request) -> web.Response:
    """List the models that a request can name, in OpenAI's or Anthropic's format."""
    data = await askable(request.app[CONTROLLER])
    if ANTHROPIC_VERSION in request.headers:
        return reply(model_pages.page(data, request.query))
    return reply({"object": "list", "data": data})


@routes.get("/v1/models/{name:.+}")
@describe({200: {"anyOf": [MODEL, model_pages.INFO]}})
async def model(request: web.Request) -> web.Response:
    """One of the models that a request can name."""
    name = request.match_info["name"]
    found = await askable_one(request.app[CONTROLLER], name)
    if found is None:
        message = f"there is no model {name} that can answer; GET /v1/models lists those that can"
        raise ApiError(404, "model_not_found", message, "model_not_found", "model")
    return reply(model_pages.info(found) if ANTHROPIC_VERSION in request.headers else found)


@routes.post("/v1/chat/completions")
@describe({200: {"type": "object"}})
async def chat(request: web.Request) -> web.StreamResponse:
    """Chat completion by a loaded instance, whole or as server-sent events."""
    return await forward(request, _CHAT)


@routes.post("/v1/completions")
@describe({200: {"type": "object"}})
async def completions(request: web.Request) -> web.StreamResponse:
    """Text completion by a loaded instance, whole or as server-sent events."""
    return await forward(request, _TEXT)
