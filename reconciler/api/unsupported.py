"""Routes that clients know from elsewhere and that are not here: each says so in its own form."""

from aiohttp import web

from reconciler.api.describe import describe
from reconciler.api.errors import reply

routes = web.RouteTableDef()

STATUS = web.HTTPBadRequest.status_code
"""What may be supported one day is no fault of the server: clients repeat requests after a 5xx."""

OLLAMA = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}


def _words(request: web.Request) -> str:
    supported = "/v1/chat/completions, /v1/completions and /v1/embeddings are"
    return f"{request.path} is not supported; {supported}"


@routes.post("/api/embed")
@routes.post("/api/embeddings")
@describe({STATUS: OLLAMA})
async def ollama(request: web.Request) -> web.Response:
    """Ollama's API is not supported."""
    return reply({"error": _words(request)}, STATUS)
