"""Details of a model on disk, and its removal."""

from pathlib import Path
from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe, ref
from reconciler.api.errors import of_problem, reply
from reconciler.api.models import loaded_by_path, model_row
from reconciler.api.ollama.names import on_disk
from reconciler.core.errors import Problem, Reason
from reconciler.host.looks import look
from reconciler.models.catalog import CatalogEntry
from reconciler.models.chat_templates import first_template

routes = web.RouteTableDef()

TEMPLATE_SECONDS = 5.0
"""Deadline for reading the chat template."""


@routes.get("/api/v1/checkpoints/{key:.+}")
@describe({200: ref("model-details")})
async def details(request: web.Request) -> web.Response:
    """Details of a model on disk: facts, chat template, location and users."""
    controller = request.app[CONTROLLER]
    key = request.match_info["key"]
    view = controller.answer(controller.named(key) or "")
    entry = await on_disk(controller, key if view is None else view.record.spec.model)
    if entry is None:
        words = f"Model {key} not found in downloaded models; `reconciler ls` lists them"
        raise of_problem(Problem(Reason.MODEL_NOT_FOUND, words, param="model"))
    users = await controller.removal.users(entry.key, Path(entry.path))
    answer: dict[str, Any] = {
        "model": model_row(entry, loaded_by_path(controller)),
        "path": entry.path,
        "used_by": users,
        "template": None,
        "defaults": {},
        "experts_total": 0,
        "experts_per_token": 0,
    }
    if not isinstance(entry.facts, Problem):
        answer |= {
            "template": await _template(entry),
            "defaults": entry.facts.generation.defaults.sent(),
            "experts_total": entry.facts.experts_total,
            "experts_per_token": entry.facts.experts_per_token,
        }
    return reply(answer)


@routes.delete("/api/v1/checkpoints/{key:.+}")
@describe({200: ref("model-removal")})
async def remove(request: web.Request) -> web.Response:
    """Remove a downloaded model from the Hugging Face cache."""
    controller = request.app[CONTROLLER]
    key = request.match_info["key"]
    entry = next((one for one in await controller.models() if one.key == key), None)
    freed = await controller.removal.remove(key, entry)
    return reply({"model": key, "freed_bytes": freed})


async def _template(entry: CatalogEntry) -> str | None:
    """Chat template; None if there is none, or it cannot be read in time."""
    try:
        return await look(first_template, Path(entry.path), seconds=TEMPLATE_SECONDS)
    except Exception:  # noqa: BLE001  file systems raise any exception, and hang
        return None
