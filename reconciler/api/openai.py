"""OpenAI's routes: a request is routed by its `model`, and the worker's answer copied.

The body is looked at once, for `model` alone; the worker that holds the instance reads the rest.
"""

import msgspec
from aiohttp import web

from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.errors import ApiError, reply
from reconciler.core.errors import LoadError

routes = web.RouteTableDef()

INSTANCE = "X-Reconciler-Instance"
"""Header of an answer: the instance that gave it."""

MAX_BYTES = 16_000_000

LIST = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {"object": {"const": "list"}, "data": {"type": "array"}},
}


class Routed(msgspec.Struct):
    """What of a request says where it goes."""

    model: str


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


@routes.post("/v1/embeddings")
@describe({})
async def embeddings(request: web.Request) -> web.Response:
    """Not supported."""
    raise _not_supported(request)


@routes.post("/v1/responses")
@describe({})
async def responses(request: web.Request) -> web.Response:
    """Not supported."""
    raise _not_supported(request)


def _not_supported(request: web.Request) -> ApiError:
    message = f"{request.path} is not supported; /v1/chat/completions and /v1/completions are"
    return ApiError(501, "invalid_request", message, "not_supported")


async def _forward(request: web.Request, path: str) -> web.StreamResponse:
    body = await request.read()
    controller = request.app[CONTROLLER]
    name = controller.route(_model(body))
    async with controller.request(name, path, body) as answer:
        copy = web.StreamResponse(status=answer.status, headers={INSTANCE: name})
        copy.content_type = answer.content_type
        if answer.status == web.HTTPServiceUnavailable.status_code:
            copy.headers["Retry-After"] = "1"
        await copy.prepare(request)
        try:
            async for chunk in answer.chunks:
                await copy.write(chunk)
        except LoadError:
            if answer.content_type == "text/event-stream":
                await copy.write(BROKEN_OFF)
        return copy


BROKEN_OFF = (
    b'data: {"error": {"type": "server_error", "code": "worker_died", '
    b'"message": "the model\'s worker process died; it is being restarted"}}\n\n'
)
"""How a stream ends whose worker is gone."""


def _model(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=Routed).model
    except msgspec.ValidationError as error:
        missing = "missing" in str(error)
        code = "missing_required_parameter" if missing else "invalid_value"
        raise ApiError(400, "invalid_request", f"model: {error}", code, "model") from None
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"the body is not JSON: {error}"
        raise ApiError(400, "invalid_request", message, "invalid_json") from None
