"""OpenAI's routes: a request is routed by its `model`, and the worker's answer copied.

The body is looked at once, for `model` and `stream`; the worker that holds the instance reads the
rest.
"""

import asyncio
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from aiohttp import web

from reconciler.api import early_stream
from reconciler.api.body import parsed, receive
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.early_stream import EVENT_STREAM, EarlyStream, error_event, event
from reconciler.api.errors import ApiError, of_exception, of_problem, reply, told_problem
from reconciler.controller import Controller
from reconciler.core import request_json
from reconciler.core.errors import Cause, LoadError, Problem

routes = web.RouteTableDef()

INSTANCE = "X-Reconciler-Instance"
"""Header of an answer: the instance that gave it."""

MAX_BYTES = 16_000_000

MAX_MODEL = 500
"""Characters, as in a load request."""

PATIENCE = 300.0
"""Seconds that a request waits for its model to be loaded; `Prefer: wait=N` says otherwise."""

LONGEST_PATIENCE = 3600.0

LIST = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array"}},
}


class Routed(msgspec.Struct):
    """What of a request says where it goes."""

    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL)]
    ttl: Annotated[float, msgspec.Meta(ge=1, le=31_536_000)] | None = None
    """Seconds without a request after which a model that this request loads is unloaded."""
    stream: Any = None
    """True if the answer is to come as server-sent events; the worker checks it."""


@routes.get("/v1/models")
@describe({200: LIST})
async def models(request: web.Request) -> web.Response:
    """The loaded instances, as OpenAI's clients list models."""
    data = [
        {
            "id": answer.record.name,
            "object": "model",
            "created": int(answer.record.created_at.timestamp()),
            "owned_by": "reconciler",
        }
        for answer in request.app[CONTROLLER].answers()
        if answer.status.config is not None
    ]
    return reply({"object": "list", "data": data})


@routes.post("/v1/chat/completions")
@describe({200: {"type": "object"}})
async def chat(request: web.Request) -> web.StreamResponse:
    """A chat completion by a loaded instance, at once or as server-sent events."""
    return await _forward(request, "chat/completions")


@routes.post("/v1/completions")
@describe({200: {"type": "object"}})
async def completions(request: web.Request) -> web.StreamResponse:
    """A text completion by a loaded instance, at once or as server-sent events."""
    return await _forward(request, "completions")


async def _forward(request: web.Request, path: str) -> web.StreamResponse:
    body = await receive(request, MAX_BYTES)
    routed = await parsed(body, _routed)
    if routed.stream is not True:
        return await _answer(request, path, body, routed)
    async with EarlyStream(request, early_stream.KEEP_ALIVE_SECONDS) as early:
        try:
            return await _answer(request, path, body, routed, early)
        except Exception as error:
            begun = await early.end()
            if begun is None:
                raise
            with suppress(ConnectionResetError):
                await begun.write(error_event(of_exception(request, error).body))
            return begun


async def _answer(
    request: web.Request, path: str, body: bytes, routed: Routed, early: EarlyStream | None = None
) -> web.StreamResponse:
    """Copy the answer of the instance, into the stream that the client has already, if it has."""
    controller = request.app[CONTROLLER]
    name = await _ready(controller, routed, _patience(request))
    async with controller.request(name, path, body) as answer:
        begun = None if early is None else await early.end()
        if begun is not None and answer.content_type != EVENT_STREAM:
            with suppress(ConnectionResetError):
                await begun.write(event(b"".join([chunk async for chunk in answer.chunks])))
            return begun
        copy = begun or web.StreamResponse(status=answer.status, headers={INSTANCE: name})
        with suppress(ConnectionResetError):  # the client went away
            if begun is None:
                copy.content_type = answer.content_type
                if answer.status == web.HTTPServiceUnavailable.status_code:
                    copy.headers["Retry-After"] = "1"
                await copy.prepare(request)
            try:
                async for chunk in answer.chunks:
                    await copy.write(chunk)
            except LoadError as error:
                if answer.content_type == EVENT_STREAM:
                    broken_off = {"type": "server_error", **told_problem(error.problem)}
                    await copy.write(error_event(broken_off))
        return copy


async def _ready(controller: Controller, asked: Routed, patience: float) -> str:
    """The instance that answers for a model, waited for while it is on its way."""
    model, ttl = asked.model, None if asked.ttl is None else round(asked.ttl)
    try:
        async with asyncio.timeout(patience):
            return await controller.ready_for(model, ttl)
    except TimeoutError:
        message = f"{model} was not ready after {patience:g} s: {controller.why_not_ready(model)}"
        problem = Problem(Cause.NOT_READY, message, permanent=False, param="model")
        raise of_problem(problem) from None


def _patience(request: web.Request) -> float:
    """Seconds that the client waits for a model to be loaded, as its `Prefer` header says."""
    for preference in ",".join(request.headers.getall("Prefer", [])).split(","):
        key, _, value = preference.partition("=")
        if key.strip().lower() == "wait" and value.strip().isdecimal():
            return min(LONGEST_PATIENCE, float(value))
    return PATIENCE


def _routed(body: bytes) -> Routed:
    try:
        return request_json.decode(body, Routed)
    except msgspec.ValidationError as error:
        key = "ttl" if "$.ttl" in str(error) else "model"
        missing = "missing" in str(error)
        code = "missing_required_parameter" if missing else "invalid_value"
        raise ApiError(400, "invalid_request", f"{key}: {error}", code, key) from None
    except (ValueError, RecursionError) as error:
        message = f"the body is not JSON: {error}"
        raise ApiError(400, "invalid_request", message, "invalid_json") from None
