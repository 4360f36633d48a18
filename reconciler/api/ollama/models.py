"""Ollama's routes to list models and loaded instances, and to show a model's details."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from reconciler import __version__
from reconciler.api.body import MAX_BYTES, parsed, receive
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.errors import ApiError, of_problem, reply
from reconciler.api.models import params_string
from reconciler.api.ollama.bodies import decoded
from reconciler.api.ollama.names import OLLAMA_ERROR, facts_of, local_name, on_disk
from reconciler.controller import Controller
from reconciler.core.errors import Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.ollama import VERSION, timestamp, with_tag
from reconciler.core.records import Instance
from reconciler.host.looks import look
from reconciler.models.chat_templates import first_template

routes = web.RouteTableDef()

FOREVER = timedelta(days=36_500)
"""Time to expiry if an instance is never unloaded: clients print "Forever" from 20 years on."""

TEMPLATE_SECONDS = 5.0
"""Deadline for reading the chat template."""

PARAMETERS = {"repetition_penalty": "repeat_penalty", "max_tokens": "num_predict"}
"""Defaults that have another name in Ollama."""

LIST = {
    "type": "object",
    "required": ["models"],
    "properties": {"models": {"type": "array", "items": {"type": "object"}}},
}


@routes.get("/api/version")
@describe(
    {
        200: {
            "type": "object",
            "required": ["version", "reconciler"],
            "properties": {"version": {"type": "string"}, "reconciler": {"type": "string"}},
        }
    }
)
async def version(_request: web.Request) -> web.Response:
    """Version of Ollama whose API is implemented, and version of the daemon."""
    return reply({"version": VERSION, "reconciler": __version__})


@routes.get("/api/tags")
@describe({200: LIST}, error=OLLAMA_ERROR)
async def tags(request: web.Request) -> web.Response:
    """List the models on disk, and the instances that have names of their own."""
    controller = request.app[CONTROLLER]
    listed = {entry.key: facts_of(entry) for entry in await controller.models()}
    rows = [_row(key, facts) for key, facts in listed.items() if facts is not None]
    rows += [
        _row(name, facts)
        for view in controller.answers()
        if (facts := controller.facts(view.record.name)) is not None
        for name in (view.record.name, *controller.aliases(view.record))
        if name not in listed
    ]
    return reply({"models": rows})


@routes.get("/api/ps")
@describe({200: LIST}, error=OLLAMA_ERROR)
async def ps(request: web.Request) -> web.Response:
    """List loaded instances, with the time at which they expire if unused."""
    controller = request.app[CONTROLLER]
    machine, now = controller.machine, datetime.now(UTC)
    gpu = machine is not None and machine.has_gpu
    return reply({"models": [_loaded(i, controller, now, gpu=gpu) for i in controller.instances()]})


class Show(msgspec.Struct):
    """Body of `/api/show`; `name` is the former name of `model`."""

    model: str = ""
    name: str = ""
    verbose: bool | None = None


@routes.post("/api/show")
@describe({200: {"type": "object"}}, error=OLLAMA_ERROR)
async def show(request: web.Request) -> web.Response:
    """Show a model: details, chat template and capabilities."""
    asked = await parsed(await receive(request, MAX_BYTES), _show)
    controller = request.app[CONTROLLER]
    name = local_name(controller, asked.model or asked.name)
    record = controller.named(name) or name
    facts = controller.facts(record) or facts_of(await on_disk(controller, name))
    if facts is None:
        words = f"model '{asked.model or asked.name}' not found"
        raise of_problem(Problem(Reason.MODEL_NOT_FOUND, words, param="model"))
    parameters = _parameters(facts)
    return reply(
        {
            "modelfile": "\n".join([f"FROM {name}", *(f"PARAMETER {one}" for one in parameters)]),
            "parameters": "\n".join(parameters),
            "template": await _template(facts),
            "details": _details(facts),
            "model_info": _info(name, facts),
            "capabilities": _capabilities(facts),
            "modified_at": timestamp(datetime.fromtimestamp(facts.modified, UTC)),
        }
    )


def _show(body: bytes) -> Show:
    asked = decoded(body, Show)
    if not (asked.model or asked.name):
        raise ApiError(400, "invalid_request", "model is required", "invalid_value", "model")
    return asked


def _row(name: str, facts: Checkpoint) -> dict[str, Any]:
    return {
        "name": with_tag(name),
        "model": with_tag(name),
        "modified_at": timestamp(datetime.fromtimestamp(facts.modified, UTC)),
        "size": facts.weights_bytes,
        "digest": _digest(facts.revision),
        "details": _details(facts),
        "capabilities": _capabilities(facts),
    }


def _loaded(
    instance: Instance, controller: Controller, now: datetime, *, gpu: bool
) -> dict[str, Any]:
    facts, left = controller.facts(instance.name), controller.seconds_left(instance.name)
    size = instance.report.memory_bytes if instance.report is not None else instance.weights_bytes
    return {
        "name": with_tag(instance.name),
        "model": with_tag(instance.name),
        "size": size,
        "digest": _digest(instance.revision),
        "details": _details(facts),
        "expires_at": timestamp(now + (FOREVER if left is None else timedelta(seconds=left))),
        "size_vram": size if gpu else 0,
        "context_length": instance.config.context_length,
    }


def _digest(revision: str) -> str:
    """Digest of 64 digits, which changes with the model's files."""
    return hashlib.sha256(revision.encode("utf-8", "surrogateescape")).hexdigest()


def _details(facts: Checkpoint | None) -> dict[str, Any]:
    family = "" if facts is None else facts.model_type
    packed = None if facts is None else facts.quantization
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": "" if facts is None else params_string(facts.parameters),
        "quantization_level": "" if packed is None else packed.name,
    }


def _capabilities(facts: Checkpoint) -> list[str]:
    if facts.embedder is not None:
        return ["embedding"]
    found = ["completion"]
    found += ["tools"] if facts.tool_use else []
    found += ["thinking"] if facts.reasoning is not None else []
    return found


def _info(name: str, facts: Checkpoint) -> dict[str, Any]:
    family = facts.model_type
    info: dict[str, Any] = {
        "general.architecture": family,
        "general.basename": name,
        "general.parameter_count": facts.parameters,
    }
    if facts.max_context is not None:
        info[f"{family}.context_length"] = facts.max_context
    if facts.shapes is not None and facts.shapes.hidden:
        info[f"{family}.embedding_length"] = facts.shapes.hidden
    if facts.experts_total:
        info[f"{family}.expert_count"] = facts.experts_total
        info[f"{family}.expert_used_count"] = facts.experts_per_token
    return info


def _parameters(facts: Checkpoint) -> list[str]:
    """Defaults of generation_config.json, in the format of a Modelfile."""
    sent = facts.generation.defaults.sent()
    return [
        f"{PARAMETERS.get(key, key):<30} {value}"
        for key, value in sent.items()
        if isinstance(value, int | float)
    ]


async def _template(facts: Checkpoint) -> str:
    try:
        return await look(first_template, Path(facts.path), seconds=TEMPLATE_SECONDS) or ""
    except Exception:  # noqa: BLE001  file systems raise any exception, and hang
        return ""
