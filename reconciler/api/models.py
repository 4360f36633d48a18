"""LM Studio's routes to load, unload and list models."""

import asyncio
from typing import Any

from aiohttp import web

from reconciler.api.body import read
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, many, ref
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError, of_mistake, of_problem, reply
from reconciler.api.stream import Stream, streaming
from reconciler.controller import Controller, Events, RecordView
from reconciler.core.errors import LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.records import LoadRequest
from reconciler.core.schema import check_name, contradictions, load_request
from reconciler.models.catalog import CatalogEntry

routes = web.RouteTableDef()


@routes.post("/api/v1/models/load")
@describe({200: ref("load-response")}, body="load-request")
async def load(request: web.Request) -> web.StreamResponse:
    """Load a model, or join an existing record; responds when the instance is ready.

    With `Accept: text/event-stream`, sends progress and then the response as server-sent events.
    """
    body = await read(request, "load-request")
    for mistake in contradictions(body):
        raise of_mistake(mistake)
    echo = bool(body.get("echo_load_config"))
    asked = load_request(body)
    if asked.adapter is not None and check_name(asked.name):
        words = f"'{asked.name}' is not a valid name for an instance; send instance_id"
        raise ApiError(400, "invalid_request", words, "missing_required_parameter", "instance_id")
    controller = request.app[CONTROLLER]
    if "text/event-stream" in request.headers.get("Accept", ""):
        return await _streamed(request, asked, echo=echo)
    return reply(_loaded(controller, await controller.load(asked), echo=echo))


async def _streamed(request: web.Request, asked: LoadRequest, *, echo: bool) -> web.StreamResponse:
    """Stream the phases, then the response or the error as the last event.

    Raises `LoadError` if the load is rejected at once.
    """
    controller = request.app[CONTROLLER]
    since = controller.events.latest
    named: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    loading = asyncio.create_task(controller.load(asked, named.set_result))

    async def send_events(stream: Stream) -> None:
        await _phases(stream, controller.events, since, named.result(), loading)
        try:
            event, data = "result", _loaded(controller, loading.result(), echo=echo)
        except LoadError as error:
            event, data = "error", {"error": of_problem(error.problem).body}
        await stream.send(encode(data).decode(), event=event)

    try:
        either: set[asyncio.Future[Any]] = {loading, named}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not named.done():
            loading.result()
        return await streaming(request, send_events)
    finally:
        loading.cancel()


async def _phases(
    stream: Stream, events: Events, since: str, name: str, loading: "asyncio.Task[RecordView]"
) -> None:
    """Send the progress of a record's load until it ends."""
    while True:
        more, ended = events.more, loading.done()
        async for event in events.follow(since, wait=False):
            if event is not None:
                since = event.id
                if event.type == "phase" and event.name == name:
                    data = encode(event.progress).decode()
                    await stream.send(data, event="progress")
        if ended:
            return
        waiting = asyncio.create_task(more.wait())
        await asyncio.wait({loading, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()


def _loaded(controller: Controller, answer: RecordView, *, echo: bool) -> dict[str, Any]:
    """Serialize the response for both forms of the request: clients look keys up by name."""
    status = answer.status
    answer_json: dict[str, Any] = {
        "type": answer.status.type or "llm",
        "status": "loaded",
        "model_instance_id": answer.record.name,
        "instance_id": answer.record.name,
        "config": status.config,
        "load_time_seconds": status.load_time_seconds,
        "joined": answer.joined,
        "warnings": (status.warnings + answer.warnings + controller.alias_warnings(answer.record)),
    }
    return answer_json | {"load_config": status.config} if echo else answer_json


@routes.post("/api/v1/models/unload")
@describe({200: ref("unload-response")}, body="unload-request")
async def unload(request: web.Request) -> web.Response:
    """Remove an http record and unload its instance; responds when its memory is free."""
    body = await read(request, "unload-request")
    await request.app[CONTROLLER].unload(body["instance_id"])
    return reply({"instance_id": body["instance_id"]})


@routes.get("/api/v1/models")
@describe({200: many("models", "model")})
async def models(request: web.Request) -> web.Response:
    """List the models on disk, each with its loaded instances."""
    controller = request.app[CONTROLLER]
    listed = await controller.models()
    by_path = loaded_by_path(controller)
    return reply({"models": [model_row(model, by_path) for model in listed]})


def loaded_by_path(controller: Controller) -> dict[str, list[dict[str, Any]]]:
    """Loaded instances by the directory of their checkpoint."""
    by_path: dict[str, list[dict[str, Any]]] = {}
    for instance in controller.instances():
        row = {"id": instance.name, "config": instance.config}
        by_path.setdefault(instance.checkpoint, []).append(row)
    return by_path


def model_row(model: CatalogEntry, by_path: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Serialize a model on disk in the format of LM Studio's clients."""
    publisher, _, name = model.key.rpartition("/")
    row: dict[str, Any] = {
        "type": "llm",
        "publisher": publisher,
        "key": model.key,
        "display_name": name,
        "architecture": None,
        "quantization": None,
        "size_bytes": None,
        "params_string": None,
        "loaded_instances": by_path.get(model.path, []),
        "max_context_length": None,
        "format": None,
        "capabilities": {"vision": False, "trained_for_tool_use": False},
        "description": None,
    }
    facts = model.facts
    if isinstance(facts, Problem):
        return row | {"error": facts.message}
    packed = facts.quantization
    return row | {
        "type": facts.type,
        "architecture": facts.model_type,
        "quantization": {"name": packed.name, "bits_per_weight": packed.bits} if packed else None,
        "size_bytes": facts.weights_bytes,
        "params_string": params_string(facts.parameters),
        "max_context_length": facts.max_context,
        "format": "mlx",
        "capabilities": _capabilities(facts),
    }


def _capabilities(facts: Checkpoint) -> dict[str, Any]:
    found: dict[str, Any] = {"vision": False, "trained_for_tool_use": facts.tool_use}
    if facts.reasoning is None or facts.embedder is not None:
        return found
    can = facts.reasoning
    return found | {"reasoning": {"allowed_options": can.options, "default": can.default}}


def params_string(parameters: int) -> str:
    """Format a number of parameters as in names of models: `7B`, `1.5B`, `350M`, `90K`."""
    for unit, factor in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= factor:
            return f"{parameters / factor:.1f}".removesuffix(".0") + unit
    return str(parameters)
