"""Embeddings: OpenAI's route."""

import msgspec
from aiohttp import web

from reconciler.api.describe import describe
from reconciler.api.forward import Routed, Way, forward, routed
from reconciler.core.dialects import Dialect

routes = web.RouteTableDef()

ANSWER = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array"}},
}


def _routed(body: bytes) -> Routed:
    """Never a stream: a client that waits gets no event, which it could not read."""
    return msgspec.structs.replace(routed(body), stream=None)


WAY = Way(Dialect.EMBEDDINGS, _routed)


@routes.post("/v1/embeddings")
@describe({200: ANSWER})
async def embeddings(request: web.Request) -> web.StreamResponse:
    """Vectors of texts by a loaded embedding model."""
    return await forward(request, WAY)
