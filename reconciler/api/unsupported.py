"""Routes that clients know from elsewhere and that are not here: each says so in its own form."""

from aiohttp import web

from reconciler.api.describe import describe
from reconciler.api.errors import reply

routes = web.RouteTableDef()

STATUS = web.HTTPBadRequest.status_code
"""What may be supported one day is no fault of the server: clients repeat requests after a 5xx."""

OLLAMA = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _words(request: web.Request) -> str:
    return f"{request.path} is not supported; /v1/chat/completions and /v1/completions are"


@routes.post("/v1/embeddings")
@describe({})
async def openai(request: web.Request) -> web.Response:
    """Not supported."""
    told = {"type": "invalid_request", "message": _words(request), "code": "not_supported"}
    return reply({"error": told}, STATUS)


@routes.post("/api/chat")
@routes.post("/api/generate")
@routes.post("/api/embed")
@routes.post("/api/embeddings")
@routes.get("/api/tags")
@describe({STATUS: OLLAMA})
async def ollama(request: web.Request) -> web.Response:
    """Ollama's API is not supported."""
    return reply({"error": _words(request)}, STATUS)
