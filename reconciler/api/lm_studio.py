"""LM Studio's routes for inference, and its older list of models.

Load, unload, downloads and the newer list are in `models` and `downloads`.
"""

from typing import Any

import msgspec
from aiohttp import web

from reconciler.api import embeddings
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.early_stream import SERVER_SENT_EVENTS, Signs
from reconciler.api.encode import encode
from reconciler.api.errors import of_problem, reply
from reconciler.api.forward import Way, forward
from reconciler.controller import Controller
from reconciler.core.dialects import Dialect
from reconciler.core.errors import Problem, Reason
from reconciler.core.facts import Checkpoint

routes = web.RouteTableDef()

MODEL = {
    "type": "object",
    "required": [
        *("id", "object", "type", "publisher", "arch", "compatibility_type", "quantization"),
        *("state", "max_context_length"),
    ],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "type": {"enum": ["llm", "embeddings"]},
        "publisher": {"type": "string"},
        "arch": {"type": "string"},
        "compatibility_type": {"const": "mlx"},
        "quantization": {"type": ["string", "null"]},
        "state": {"enum": ["loaded", "not-loaded"]},
        "max_context_length": {"type": ["integer", "null"]},
        "loaded_context_length": {"type": "integer"},
        "capabilities": {"type": "array", "items": {"const": "tool_use"}},
    },
}
LIST = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": MODEL}},
}
ANSWER = {"type": "object", "required": ["stats", "model_info", "runtime"]}
OUTPUT = {"type": "object", "required": ["model_instance_id", "output", "stats"]}


def _event(data: bytes) -> bytes:
    return b"event: error\ndata: " + data + b"\n\n"


def _error_event(error: dict[str, str], _status: int) -> bytes:
    return _event(encode({"type": "error", "error": error}))


def _whole(answer: bytes) -> bytes:
    """Make an event from a worker's error, for a stream that was already started."""
    return _event(encode({"type": "error", **msgspec.json.decode(answer, type=dict[str, Any])}))


_EVENTS = Signs("text/event-stream", SERVER_SENT_EVENTS.alive, _error_event, _whole)

_CHAT = Way(Dialect.LM_STUDIO_CHAT, signs=_EVENTS)
_V0_CHAT = Way(Dialect.LM_STUDIO_V0_CHAT)
_V0_TEXT = Way(Dialect.LM_STUDIO_V0_TEXT)


@routes.post("/api/v1/chat")
@describe({200: OUTPUT})
async def chat(request: web.Request) -> web.StreamResponse:
    """Single-turn chat in LM Studio's own format, whole or as named events."""
    return await forward(request, _CHAT)


@routes.post("/api/v0/chat/completions")
@describe({200: ANSWER})
async def v0_chat(request: web.Request) -> web.StreamResponse:
    """Chat completion in OpenAI's format, with statistics."""
    return await forward(request, _V0_CHAT)


@routes.post("/api/v0/completions")
@describe({200: ANSWER})
async def v0_completions(request: web.Request) -> web.StreamResponse:
    """Text completion in OpenAI's format, with statistics."""
    return await forward(request, _V0_TEXT)


@routes.post("/api/v0/embeddings")
@describe({200: embeddings.ANSWER})
async def v0_embeddings(request: web.Request) -> web.StreamResponse:
    """Embeddings in OpenAI's format."""
    return await forward(request, embeddings.WAY)


@routes.get("/api/v0/models")
@describe({200: LIST})
async def models(request: web.Request) -> web.Response:
    """List the models on disk, and the instances that have names of their own."""
    return reply({"object": "list", "data": await _models(request.app[CONTROLLER])})


@routes.get("/api/v0/models/{name:.+}")
@describe({200: MODEL})
async def model(request: web.Request) -> web.Response:
    """One model of that list."""
    name = request.match_info["name"]
    for row in await _models(request.app[CONTROLLER]):
        if row["id"] == name:
            return reply(row)
    words = f"Model {name} not found in downloaded models"
    raise of_problem(Problem(Reason.MODEL_NOT_FOUND, words, param="model"))


async def _models(controller: Controller) -> list[dict[str, Any]]:
    instances = controller.instances()
    contexts = {i.checkpoint: i.config.context_length for i in reversed(instances)}
    entries = await controller.models()
    rows = [
        _row(entry.key, entry.facts, contexts.get(entry.path))
        for entry in entries
        if isinstance(entry.facts, Checkpoint)
    ]
    listed = {entry.key for entry in entries}
    for instance in instances:
        facts, view = controller.facts(instance.name), controller.answer(instance.name)
        aliases = controller.aliases(view.record) if view is not None else ()
        if facts is not None:
            names = [name for name in (instance.name, *aliases) if name not in listed]
            rows += [_row(name, facts, instance.config.context_length) for name in names]
    return rows


def _row(name: str, facts: Checkpoint, loaded: int | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": name,
        "object": "model",
        "type": "llm" if facts.embedder is None else "embeddings",
        "publisher": name.rpartition("/")[0],
        "arch": facts.model_type,
        "compatibility_type": "mlx",
        "quantization": None if facts.quantization is None else facts.quantization.name,
        "state": "not-loaded" if loaded is None else "loaded",
        "max_context_length": facts.max_context,
        "capabilities": ["tool_use"] if facts.tool_use else [],
    }
    return row if loaded is None else row | {"loaded_context_length": loaded}
