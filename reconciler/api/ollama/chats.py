"""Ollama's chat and generate routes. Without messages or a prompt they load or unload a model."""

import math
import time
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from reconciler.api.body import parsed, receive
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.early_stream import Signs
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError, reply
from reconciler.api.forward import (
    ABSENT,
    LONGEST_TTL,
    MAX_BYTES,
    Routed,
    Way,
    forward_body,
    is_value,
    looked_at,
)
from reconciler.api.ollama.names import OLLAMA_ERROR, local_name, on_disk
from reconciler.controller import Controller
from reconciler.core.dialects import Dialect, ollama_error
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.ollama import (
    LINES,
    NO_MESSAGE,
    NO_RESPONSE,
    keep_alive_seconds,
    sign_of_life,
    timestamp,
)
from reconciler.core.records import HTTP, LoadRequest

routes = web.RouteTableDef()

SHORT = 100
"""Maximum bytes of an empty list, including spaces."""

_NOTHING = (b"", b"null", b'""', b"[]")


class Asked(Routed):
    """Keys of a request that determine its route, and whether it needs an answer."""

    keep_alive: float | str | None = None
    prompt: msgspec.Raw = ABSENT
    messages: msgspec.Raw = ABSENT

    @property
    def stream(self) -> bool:
        """True unless the client disables the stream."""
        return not is_value(self.sent_stream, b"false")

    @property
    def seconds(self) -> float | None:
        """Seconds for which the model stays loaded; infinity: forever; None: not specified."""
        return keep_alive_seconds(self.keep_alive)


A = TypeVar("A", bound=Asked)


def routed(body: bytes, kind: type[A]) -> A:
    """Decode the routing keys of a body. Raises `ApiError`."""
    asked = looked_at(body, kind)
    if not asked.model:
        raise ApiError(400, "invalid_request", "model is required", "invalid_value", "model")
    try:
        seconds = asked.seconds
    except ValueError as error:
        raise ApiError(400, "invalid_request", str(error), "invalid_value", "keep_alive") from None
    if seconds is not None:
        asked.ttl = min(LONGEST_TTL, max(1, seconds))
    return asked


def _routed(body: bytes) -> Asked:
    return routed(body, Asked)


def _error_line(error: dict[str, str], status: int) -> bytes:
    return encode(ollama_error(error, status)) + b"\n"


def _way(dialect: Dialect, nothing: dict[str, Any]) -> Way:
    def alive(model: str) -> bytes:
        return sign_of_life(model, nothing, datetime.now(UTC))

    signs = Signs(LINES, None, _error_line, lambda body: body + b"\n", alive)
    return Way(dialect, _routed, signs, local_name)


_CHAT = _way(Dialect.OLLAMA_CHAT, NO_MESSAGE)
_GENERATE = _way(Dialect.OLLAMA_GENERATE, NO_RESPONSE)


@routes.post("/api/chat")
@describe({200: {"type": "object"}}, error=OLLAMA_ERROR)
async def chat(request: web.Request) -> web.StreamResponse:
    """Ollama's chat, as lines of JSON or whole. Without messages, loads the model."""
    return await _answer(request, _CHAT, NO_MESSAGE)


@routes.post("/api/generate")
@describe({200: {"type": "object"}}, error=OLLAMA_ERROR)
async def generate(request: web.Request) -> web.StreamResponse:
    """Ollama's completion of a prompt. Without a prompt, loads the model."""
    return await _answer(request, _GENERATE, NO_RESPONSE)


async def _answer(request: web.Request, way: Way, nothing: dict[str, Any]) -> web.StreamResponse:
    begin = time.monotonic()
    body = await receive(request, MAX_BYTES)
    asked = await parsed(body, _routed)
    if not is_nothing(asked.messages if way.dialect is Dialect.OLLAMA_CHAT else asked.prompt):
        return await forward_body(request, way, body, asked, begin)
    controller = request.app[CONTROLLER]
    unload = asked.seconds == 0
    await (_unload if unload else load)(controller, asked)
    nanoseconds = round((time.monotonic() - begin) * 1e9)
    return reply(
        {
            "model": asked.model,
            "created_at": timestamp(datetime.now(UTC)),
            **nothing,
            "done": True,
            "done_reason": "unload" if unload else "load",
            "total_duration": nanoseconds,
            "load_duration": nanoseconds,
        }
    )


def is_nothing(sent: msgspec.Raw) -> bool:
    """True if the value is empty. It may be megabytes long."""
    view = memoryview(sent)
    return view.nbytes <= SHORT and b"".join(view.tobytes().split()) in _NOTHING


async def load(controller: Controller, asked: Asked) -> None:
    """Load the model, or reload its idle instance. Raises `LoadError`."""
    model = local_name(controller, asked.model)
    if controller.records_of(model):
        await controller.ready_for(model)
        return
    seconds = asked.seconds
    ttl = None if seconds is None or seconds > LONGEST_TTL else max(1, math.ceil(seconds))
    await controller.load(LoadRequest(model, idle_ttl_seconds=ttl))


async def _unload(controller: Controller, asked: Asked) -> None:
    """Unload the http records of a model; a manifest's record stays. Raises `LoadError`."""
    model = local_name(controller, asked.model)
    records = controller.records_of(model)
    if not records:
        if await on_disk(controller, model) is None:
            words = f"model '{asked.model}' not found"
            raise LoadError(Problem(Reason.MODEL_NOT_FOUND, words, param="model"))
        return  # not loaded
    ours = [record for record in records if record.owner == HTTP]
    for record in ours or records[:1]:
        await controller.unload(record.name)
