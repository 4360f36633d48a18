"""Load, unload, and what is on disk: LM Studio's routes."""

from typing import Any

from aiohttp import web

from reconciler.api.body import read
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, many, ref
from reconciler.api.errors import of_mistake, reply
from reconciler.core.errors import Problem
from reconciler.core.schema import contradictions, load_request
from reconciler.models.catalog import Listed

routes = web.RouteTableDef()


@routes.post("/api/v1/models/load")
@describe({200: ref("load-response")}, body="load-request")
async def load(request: web.Request) -> web.Response:
    """Load a model, or join what is loaded already; answers when it can be used."""
    body = await read(request, "load-request")
    for mistake in contradictions(body):
        raise of_mistake(mistake)
    answer = await request.app[CONTROLLER].load(load_request(body))
    status = answer.status
    # One answer for both forms of the request: clients look keys up by name.
    told = {
        "type": "llm",
        "status": "loaded",
        "model_instance_id": answer.record.name,
        "instance_id": answer.record.name,
        "config": status.config,
        "load_time_seconds": status.load_time_seconds,
        "joined": answer.joined,
        "warnings": status.warnings + answer.warnings,
    }
    if body.get("echo_load_config"):
        told["load_config"] = status.config
    return reply(told)


@routes.post("/api/v1/models/unload")
@describe({200: ref("unload-response")}, body="unload-request")
async def unload(request: web.Request) -> web.Response:
    """Remove an http record and unload its instance; answers when its memory is free."""
    body = await read(request, "unload-request")
    await request.app[CONTROLLER].unload(body["instance_id"])
    return reply({"instance_id": body["instance_id"]})


@routes.get("/api/v1/models")
@describe({200: many("models", "model")})
async def models(request: web.Request) -> web.Response:
    """The models on disk, each with its loaded instances."""
    controller = request.app[CONTROLLER]
    listed = await controller.models()
    instances = controller.instances()
    by_path: dict[str, list[dict[str, Any]]] = {}
    for instance in instances:
        row = {"id": instance.name, "config": instance.config}
        by_path.setdefault(instance.checkpoint, []).append(row)
    return reply({"models": [_row(model, by_path) for model in listed]})


def _row(model: Listed, by_path: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
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
        "loaded_instances": [],
        "max_context_length": None,
        "format": None,
        "capabilities": {"vision": False, "trained_for_tool_use": False},
        "description": None,
    }
    facts = model.facts
    if isinstance(facts, Problem):
        return row | {"error": facts.message}
    bits = facts.quantization_bits
    return row | {
        "architecture": facts.model_type,
        "quantization": {"name": f"{bits}bit", "bits_per_weight": bits} if bits else None,
        "size_bytes": facts.weights_bytes,
        "params_string": _params_string(facts.parameters),
        "loaded_instances": by_path.get(facts.path, []),
        "max_context_length": facts.max_context,
        "format": "mlx",
        "capabilities": {"vision": False, "trained_for_tool_use": facts.tool_use},
    }


def _params_string(parameters: int) -> str:
    """As models are named: `7B`, `1.5B`, `350M`, `90K`."""
    for unit, factor in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if parameters >= factor:
            return f"{parameters / factor:.1f}".removesuffix(".0") + unit
    return str(parameters)
