"""Search for models on the hub, marking those that fit this machine."""

from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import Query, describe, many
from reconciler.api.errors import ApiError, reply
from reconciler.models.hub_search import HubModel

routes = web.RouteTableDef()

LIBRARY = "mlx"
"""Tag of models with weights for MLX."""

MOST = 100
DEFAULT_LIMIT = 20
MAX_QUERY = 200

WEIGHTS_SHARE = 0.9
"""Share of the memory budget for weights; the rest is for the process and a KV cache."""


@routes.get("/api/v1/hub/models")
@describe(
    {200: many("models", "hub-model")},
    query=(
        Query("search", "Search terms.", {"type": "string", "maxLength": MAX_QUERY}),
        Query(
            "limit", "Maximum number of models.", {"type": "integer", "minimum": 1, "maximum": MOST}
        ),
        Query(
            "library", "`mlx`, the default: models for MLX; `any`: all.", {"enum": ["mlx", "any"]}
        ),
    ),
)
async def search(request: web.Request) -> web.Response:
    """Search the hub; marks models that fit this machine and models that are on disk."""
    controller, query = request.app[CONTROLLER], request.query
    words = query.get("search", "").strip()
    if not words or len(words) > MAX_QUERY:
        raise _invalid(f"search: expected 1 to {MAX_QUERY} characters", "search")
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 4 and 1 <= int(limit) <= MOST):
        raise _invalid(f"limit: expected a number from 1 to {MOST}", "limit")
    library = query.get("library", LIBRARY)
    if library not in (LIBRARY, "any"):
        raise _invalid("library: expected mlx or any", "library")
    only = None if library == "any" else library
    found = await controller.hub_search.search(words, int(limit), only)
    held = controller.memory()
    keys = {entry.key.lower() for entry in await controller.models()}
    budget = None if held is None else held.budget
    return reply({"models": [_row(model, budget, keys) for model in found]})


def _row(model: HubModel, budget: int | None, keys: set[str]) -> dict[str, Any]:
    return {
        "model": model.model,
        "size_bytes": model.size_bytes,
        "fits": fits(model.size_bytes, budget),
        "on_disk": model.model.lower() in keys,
        "downloads": model.downloads,
        "gated": model.gated,
        "updated_at": model.updated_at,
    }


def fits(size: int | None, budget: int | None) -> bool | None:
    """True if weights of a size leave room for a KV cache; None if unknown."""
    return None if size is None or budget is None else size <= WEIGHTS_SHARE * budget


def _invalid(message: str, key: str) -> ApiError:
    return ApiError(400, "invalid_request", message, "invalid_value", key)
