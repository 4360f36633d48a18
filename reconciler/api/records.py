"""Desired state and what became of it."""

import asyncio
import contextlib
import math
from typing import Any

from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.errors import ApiError, of_problem, reply
from reconciler.controller import Answer, Controller
from reconciler.core.errors import Cause, Problem
from reconciler.core.records import LoadSpec

routes = web.RouteTableDef()

DEFAULT_TIMEOUT = 60.0
LONGEST_TIMEOUT = 3600.0
"""Seconds that a question with `wait` may stay open."""


@routes.get("/api/v1/records")
async def records(request: web.Request) -> web.Response:
    """All records."""
    return reply({"records": [_record(a) for a in request.app[CONTROLLER].answers()]})


@routes.get("/api/v1/records/{name:.+}")
async def record(request: web.Request) -> web.Response:
    """One record. With `wait=ready` or `wait=gone` it answers when that is so, or at `timeout`.

    `generation=N` makes `wait=ready` mean generation N or a later one.
    """
    name = request.match_info["name"]
    controller = request.app[CONTROLLER]
    await _wait(request, controller, name)
    answer = controller.answer(name)
    if answer is None:
        raise of_problem(Problem(Cause.UNKNOWN_INSTANCE, f"there is no record '{name}'"))
    return reply(_record(answer))


async def _wait(request: web.Request, controller: Controller, name: str) -> None:
    wanted = request.query.get("wait")
    if wanted is None:
        return
    generation = int(_number(request, "generation", 1))

    def ready() -> bool:
        answer = controller.answer(name)
        return (
            answer is not None
            and answer.status.ready
            and answer.status.observed_generation >= generation
        )

    conditions = {"ready": ready, "gone": lambda: controller.is_gone(name)}
    if wanted not in conditions:
        raise ApiError(
            400,
            "invalid_request",
            f"wait must be ready or gone, got {wanted}",
            "invalid_value",
            "wait",
        )
    timeout = min(LONGEST_TIMEOUT, _number(request, "timeout", DEFAULT_TIMEOUT))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await controller.until(conditions[wanted])


def _number(request: web.Request, key: str, default: float) -> float:
    text = request.query.get(key)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        message = f"{key} must be a number of 0 or more, got {text}"
        raise ApiError(400, "invalid_request", message, "invalid_value", key)
    return value


def _record(answer: Answer) -> dict[str, Any]:
    record, status = answer.record, answer.status
    return {
        "name": record.name,
        "owner": record.owner,
        "file": record.file,
        "line": record.line,
        "generation": record.generation,
        "created_at": record.created_at,
        "spec": _spec(record.spec),
        "status": status,
    }


def _spec(spec: LoadSpec) -> dict[str, Any]:
    """A spec as it would stand in a manifest."""
    told: dict[str, Any] = {"model": spec.model, "config": spec.config.sent()}
    return told | {"suspend": True} if spec.suspend else told
