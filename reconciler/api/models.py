"""Load, unload, and what is on disk: LM Studio's routes."""

from typing import Any

from aiohttp import web

from reconciler.api.body import read
from reconciler.api.context import CONTROLLER
from reconciler.api.errors import of_mistake, reply
from reconciler.core.errors import Problem
from reconciler.core.schema import contradictions, load_request
from reconciler.models.catalog import Listed

routes = web.RouteTableDef()


@routes.post("/api/v1/models/load")
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
        "warnings": status.warnings,
    }
    if body.get("echo_load_config"):
        told["load_config"] = status.config
    return reply(told)


@routes.post("/api/v1/models/unload")
async def unload(request: web.Request) -> web.Response:
    """Remove an http record and unload its instance; answers when its memory is free."""
    body = await read(request, "unload-request")
    await request.app[CONTROLLER].unload(body["instance_id"])
    return reply({"instance_id": body["instance_id"]})


@routes.get("/api/v1/models")
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
        "format": "mlx",
    }
    facts = model.facts
    if isinstance(facts, Problem):
        return row | {"loaded_instances": [], "error": facts.message}
    bits = facts.quantization_bits
    return row | {
        "architecture": facts.model_type,
        "quantization": {"name": f"{bits}bit", "bits_per_weight": bits} if bits else None,
        "size_bytes": facts.weights_bytes,
        "max_context_length": facts.max_context,
        "loaded_instances": by_path.get(facts.path, []),
    }
