"""Embeddings by OpenAI's route, and reranking."""

import msgspec
from aiohttp import web

from reconciler.api.describe import describe
from reconciler.api.forward import ABSENT, Routed, Way, forward, routed
from reconciler.core.dialects import Dialect

routes = web.RouteTableDef()

ANSWER = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array"}},
}


def _routed(body: bytes) -> Routed:
    """Disable streaming: a waiting client could not read keep-alive events."""
    return msgspec.structs.replace(routed(body), sent_stream=ABSENT)


RANKED = {
    "type": "object",
    "required": ["id", "model", "results", "usage"],
    "properties": {"results": {"type": "array"}},
}

WAY = Way(Dialect.EMBEDDINGS, _routed)

_RERANK = Way(Dialect.RERANK, _routed)


@routes.post("/v1/embeddings")
@describe({200: ANSWER})
async def embeddings(request: web.Request) -> web.StreamResponse:
    """Embeddings of texts by a loaded embedding model."""
    return await forward(request, WAY)


@routes.post("/v1/rerank")
@routes.post("/v2/rerank")
@describe({200: RANKED})
async def rerank(request: web.Request) -> web.StreamResponse:
    """Relevance of documents to a query, by a loaded reranker."""
    return await forward(request, _RERANK)
