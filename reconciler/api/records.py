"""Records: desired state, actual state and history."""

import asyncio
import contextlib
import math
from dataclasses import asdict, fields, replace
from typing import Any

from aiohttp import web

from reconciler.api.body import read
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import Query, describe, many, ref
from reconciler.api.errors import ApiError, of_mistake, of_problem, reply
from reconciler.api.pieces import encoded
from reconciler.controller import Controller, RecordView, SourceError
from reconciler.core.records import Generation
from reconciler.core.schema import check_name, load_spec, spec_json

routes = web.RouteTableDef()

NUMBER = {"type": "number", "minimum": 0}

DEFAULT_TIMEOUT = 60.0
LONGEST_TIMEOUT = 3600.0
"""Maximum seconds that a request with `wait` may stay open."""


@routes.get("/api/v1/records")
@describe({200: many("records", "record")})
async def records(request: web.Request) -> web.Response:
    """List all records."""
    controller = request.app[CONTROLLER]
    listed = await encoded(controller.each_answer(), lambda view: _record(view, controller))
    return reply({"records": listed})


@routes.get("/api/v1/records/{name:.+}")
@describe(
    {200: ref("record")},
    query=(
        Query("wait", "Respond when the record is ready or gone.", {"enum": ["ready", "gone"]}),
        Query("generation", "Minimum generation for `wait=ready`.", NUMBER),
        Query("timeout", "Maximum seconds to wait.", NUMBER),
    ),
)
async def record(request: web.Request) -> web.Response:
    """One record. With `wait`, responds when the record is ready or gone, or at `timeout`.

    With `generation=N`, `wait=ready` waits for generation N or a later one.
    """
    name = request.match_info["name"]
    controller = request.app[CONTROLLER]
    await _wait(request, controller, name)
    answer = controller.answer(name)
    if answer is None:
        raise of_problem(controller.unknown_record(name))
    return reply(_record(answer, controller))


@routes.put("/api/v1/records/{name:.+}")
@describe(
    {200: ref("record")},
    body="record-request",
    query=(Query("wait", "Respond when it is loaded, or with the error.", {"const": "ready"}),),
)
async def put(request: web.Request) -> web.Response:
    """Declare an http record, replacing one of that name; never changes a manifest's record."""
    name = request.match_info["name"]
    for mistake in check_name(name):
        raise of_mistake(mistake)
    body = await read(request, "record-request")
    wait = request.query.get("wait")
    if wait not in (None, "ready"):
        message = f"wait must be ready, got {wait}"
        raise ApiError(400, "invalid_request", message, "invalid_value", "wait")
    controller = request.app[CONTROLLER]
    answer = await controller.put(name, load_spec(body["spec"]), wait=wait == "ready")
    return reply(_record(answer, controller))


@routes.delete("/api/v1/records/{name:.+}")
@describe({200: ref("unload-response")})
async def delete(request: web.Request) -> web.Response:
    """Remove an http record and unload its instance; responds when its memory is free."""
    name = request.match_info["name"]
    await request.app[CONTROLLER].unload(name)
    return reply({"instance_id": name})


@routes.post("/api/v1/records/{name:.+}/clear")
@describe({200: ref("record")})
async def clear(request: web.Request) -> web.Response:
    """Clear the crashes, failures and back-off of a record, so that it is retried at once."""
    controller = request.app[CONTROLLER]
    return reply(_record(controller.clear(request.match_info["name"]), controller))


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


@routes.get("/api/v1/history")
@describe(
    {200: many("history", "generation")},
    query=(Query("name", "Only this record.", {"type": "string"}),),
)
async def history(request: web.Request) -> web.Response:
    """History of specs and their outcomes, newest first, including removed records."""
    kept = request.app[CONTROLLER].history(request.query.get("name"))
    return reply({"history": await encoded(kept, _generation)})


def _generation(generation: Generation) -> dict[str, Any]:
    values = {f.name: getattr(generation, f.name) for f in fields(generation)}
    return values | {"spec": spec_json(generation.spec)}


def _record(answer: RecordView, controller: Controller) -> dict[str, Any]:
    record, status = answer.record, answer.status
    return {
        "name": record.name,
        "owner": record.owner,
        "file": record.file,
        "line": record.line,
        "generation": record.generation,
        "created_at": record.created_at,
        "provisional": record.provisional,
        "spec": spec_json(record.spec),
        "status": replace(status, warnings=status.warnings + controller.alias_warnings(record)),
        "source_errors": [_complaint(c) for c in controller.complaints(record)],
    }


def _complaint(complaint: SourceError) -> dict[str, Any]:
    place = complaint.place
    location = {"file": None, "line": None, "column": None, "key": None}
    return {"message": complaint.message} | (location if place is None else asdict(place))
