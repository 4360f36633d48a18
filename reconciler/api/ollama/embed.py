"""Ollama's embeddings. Without a text they load the model, as Ollama's other routes do."""

import time
from typing import Any

import msgspec
from aiohttp import web

from reconciler.api.body import parsed, receive
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.errors import reply
from reconciler.api.forward import ABSENT, MAX_BYTES, Way, forward_body
from reconciler.api.ollama.chats import Asked, is_nothing, load, routed
from reconciler.api.ollama.names import OLLAMA_ERROR, local_name
from reconciler.core.dialects import Dialect

routes = web.RouteTableDef()

EMBEDDED = {
    "type": "object",
    "required": ["model", "embeddings"],
    "properties": {"embeddings": {"type": "array", "items": {"type": "array"}}},
}
EMBEDDING = {
    "type": "object",
    "required": ["embedding"],
    "properties": {"embedding": {"type": "array", "items": {"type": "number"}}},
}


class _Texts(Asked):
    """Keys of a request that determine its route, and whether there is a text."""

    input: msgspec.Raw = ABSENT

    @property
    def stream(self) -> bool:
        """Never: a waiting client could not read keep-alive events."""
        return False


def _routed(body: bytes) -> _Texts:
    return routed(body, _Texts)


_EMBED = Way(Dialect.OLLAMA_EMBED, _routed, named=local_name)
_EMBEDDINGS = Way(Dialect.OLLAMA_EMBEDDINGS, _routed, named=local_name)


@routes.post("/api/embed")
@describe({200: EMBEDDED}, error=OLLAMA_ERROR)
async def embed(request: web.Request) -> web.StreamResponse:
    """Unit-length embeddings of one or several texts. Without a text, loads the model."""
    return await _answer(request, _EMBED)


@routes.post("/api/embeddings")
@describe({200: EMBEDDING}, error=OLLAMA_ERROR)
async def embeddings(request: web.Request) -> web.StreamResponse:
    """Embedding of one text, in the older format."""
    return await _answer(request, _EMBEDDINGS)


async def _answer(request: web.Request, way: Way) -> web.StreamResponse:
    begin = time.monotonic()
    body = await receive(request, MAX_BYTES)
    asked = await parsed(body, _routed)
    newer = way.dialect is Dialect.OLLAMA_EMBED
    if not is_nothing(asked.input if newer else asked.prompt):
        return await forward_body(request, way, body, asked, begin)
    await load(request.app[CONTROLLER], asked)
    nothing: dict[str, Any] = {"embedding": []}
    if newer:
        nothing = {"model": asked.model, "embeddings": []}
    return reply(nothing)
