"""Embeddings: OpenAI's route."""

from aiohttp import web

from reconciler.api.describe import describe
from reconciler.api.forward import Way, forward
from reconciler.core.dialects import Dialect

routes = web.RouteTableDef()

ANSWER = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array"}},
}

_EMBEDDINGS = Way(Dialect.EMBEDDINGS)


@routes.post("/v1/embeddings")
@describe({200: ANSWER})
async def embeddings(request: web.Request) -> web.StreamResponse:
    """Vectors of texts by a loaded embedding model."""
    return await forward(request, _EMBEDDINGS)
