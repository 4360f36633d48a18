"""Forwarding of requests: route by `model`, and copy the response of the instance's worker.

Only the keys that determine the route are decoded here; the worker decodes the rest of the body.
"""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from aiohttp import web

from reconciler.api import early_stream
from reconciler.api.body import parsed, receive
from reconciler.api.context import CONTROLLER
from reconciler.api.early_stream import SERVER_SENT_EVENTS, EarlyStream, Signs
from reconciler.api.errors import ApiError, of_exception, of_problem, problem_json
from reconciler.controller import Controller
from reconciler.core import request_json
from reconciler.core.dialects import Dialect
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.protocol import RequestContext

INSTANCE = "X-Reconciler-Instance"
"""Response header with the name of the instance that answered."""

MAX_BYTES = 16_000_000

MAX_MODEL = 500
"""Maximum characters of a model's name, as in a load request."""

PATIENCE = 300.0
"""Seconds that a request waits for its model to load, unless it has `Prefer: wait=N`."""

LONGEST_PATIENCE = 3600.0

LONGEST_TTL = 31_536_000

ABSENT = msgspec.Raw(b"")
"""A key that the request does not have."""

R = TypeVar("R", bound="Routed")


class Routed(msgspec.Struct):
    """Keys of a request that determine its route."""

    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL)]
    ttl: Annotated[float, msgspec.Meta(ge=1, le=LONGEST_TTL)] | None = None
    """Seconds without a request after which a model that this request loads is unloaded."""
    sent_stream: msgspec.Raw = msgspec.field(name="stream", default=ABSENT)
    """Left undecoded: the worker validates it, and a list of millions would block the daemon."""

    @property
    def stream(self) -> bool:
        """True if the client requests a stream."""
        return is_value(self.sent_stream, b"true")


def is_value(sent: msgspec.Raw, value: bytes) -> bool:
    """True if an undecoded value, which may be megabytes long, has this text."""
    return memoryview(sent) == value


def routed(body: bytes) -> Routed:
    """Decode the routing keys of a body in OpenAI's format. Raises `ApiError`."""
    return looked_at(body, Routed)


def looked_at(body: bytes, kind: type[R]) -> R:
    """Decode the keys of `kind` from a request's body. Raises `ApiError`."""
    try:
        return request_json.decode(body, kind)
    except msgspec.ValidationError as error:
        place = _KEY.search(str(error))
        key = "model" if place is None else place[1]
        missing = "missing" in str(error)
        code = "missing_required_parameter" if missing else "invalid_value"
        raise ApiError(400, "invalid_request", f"{key}: {error}", code, key) from None
    except (ValueError, RecursionError) as error:
        message = f"the body is not JSON: {error}"
        raise ApiError(400, "invalid_request", message, "invalid_json") from None


_KEY = re.compile(r"`\$\.(\w+)")
"""Key named by an error of msgspec."""


@dataclass(frozen=True)
class Way:
    """Routing of a dialect's requests, and the stream that clients get while they wait."""

    dialect: Dialect
    routed: Callable[[bytes], Routed] = routed
    signs: Signs = SERVER_SENT_EVENTS
    named: Callable[[Controller, str], str] | None = None
    """Resolves a name in a request to a model or instance; None if names are used unchanged."""


async def forward(request: web.Request, way: Way) -> web.StreamResponse:
    """Forward a request to the instance that it names. Raises `ApiError` and `LoadError`."""
    begin = time.monotonic()
    body = await receive(request, MAX_BYTES)
    return await forward_body(request, way, body, await parsed(body, way.routed), begin)


async def forward_body(
    request: web.Request, way: Way, body: bytes, asked: Routed, begin: float
) -> web.StreamResponse:
    """Forward a request whose body was received and decoded; `begin`: monotonic time of arrival."""
    signs = way.signs.of(asked.model)
    if not asked.stream or signs.alive is None:
        return await _answer(request, way, body, asked, begin)
    async with EarlyStream(request, signs, early_stream.KEEP_ALIVE_SECONDS) as early:
        try:
            return await _answer(request, way, body, asked, begin, early)
        except Exception as error:
            begun = await early.end()
            if begun is None:
                raise
            failure = of_exception(request, error)
            with suppress(ConnectionResetError):
                await begun.write(signs.error(failure.body, failure.status))
            return begun


async def _answer(
    request: web.Request,
    way: Way,
    body: bytes,
    asked: Routed,
    begin: float,
    early: EarlyStream | None = None,
) -> web.StreamResponse:
    """Copy the response of the instance, into the stream `early` if that was started."""
    controller = request.app[CONTROLLER]
    model = asked.model if way.named is None else way.named(controller, asked.model)
    loaded = not controller.serves(model)
    name = await _ready(controller, model, asked.ttl, _patience(request))
    context = _context(controller, name, time.monotonic() - begin, loaded=loaded)
    signs = way.signs
    async with controller.request(name, way.dialect, body, context) as answer:
        begun = None if early is None else await early.end()
        if begun is not None and answer.content_type != signs.content_type:
            with suppress(ConnectionResetError):
                await begun.write(signs.whole(b"".join([chunk async for chunk in answer.chunks])))
            return begun
        copy = begun or web.StreamResponse(status=answer.status, headers={INSTANCE: name})
        with suppress(ConnectionResetError):  # the client disconnected
            if begun is None:
                copy.content_type = answer.content_type
                if answer.status == web.HTTPServiceUnavailable.status_code:
                    copy.headers["Retry-After"] = "1"
                await copy.prepare(request)
            try:
                async for chunk in answer.chunks:
                    await copy.write(chunk)
            except LoadError as error:
                if answer.content_type == signs.content_type:
                    broken_off = {"type": "server_error", **problem_json(error.problem)}
                    await copy.write(signs.error(broken_off, 500))
        return copy


def _context(controller: Controller, name: str, waited: float, *, loaded: bool) -> RequestContext:
    facts, machine = controller.facts(name), controller.machine
    packed = None if facts is None else facts.quantization
    return RequestContext(
        waited,
        loaded,
        "" if facts is None else facts.model_type,
        None if packed is None else packed.name,
        "" if machine is None else machine.mlx_version,
    )


async def _ready(controller: Controller, model: str, ttl: float | None, patience: float) -> str:
    """Wait for an instance that answers for a model. Returns its name."""
    try:
        async with asyncio.timeout(patience):
            return await controller.ready_for(model, None if ttl is None else round(ttl))
    except TimeoutError:
        message = f"{model} was not ready after {patience:g} s: {controller.why_not_ready(model)}"
        problem = Problem(Reason.NOT_READY, message, permanent=False, param="model")
        raise of_problem(problem) from None


def _patience(request: web.Request) -> float:
    """Seconds that the client waits for a model to load, from its `Prefer` header."""
    for preference in ",".join(request.headers.getall("Prefer", [])).split(","):
        key, _, value = preference.partition("=")
        if key.strip().lower() == "wait" and value.strip().isdecimal():
            return min(LONGEST_PATIENCE, float(value))
    return PATIENCE
