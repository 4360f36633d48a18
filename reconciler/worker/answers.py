"""Run a completion and write its response in the format of an API dialect."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from reconciler.core.dialects import ErrorForm, openai_error
from reconciler.core.protocol import MODEL_HEADER
from reconciler.worker import keep_alive, logs
from reconciler.worker.completions import Completion
from reconciler.worker.errors import RequestError
from reconciler.worker.keep_alive import SERVER_SENT_EVENTS, Signs, Stream

FAILED = 500


@dataclass(frozen=True)
class Form:
    """Response format of a dialect.

    Exceptions of `at_once` are written by `error`, those of `stream` by `broken_off`. `stream` may
    also raise ConnectionResetError.
    """

    at_once: Callable[[Completion, str], Awaitable[web.Response]]
    """Build the complete response, with the model name that the client uses."""
    stream: Callable[[Stream, Completion, str], Awaitable[None]]
    """Write the response while it is generated."""
    broken_off: Callable[[dict[str, str]], bytes]
    """Serialize the error that ends a stream."""
    error: ErrorForm = openai_error
    signs: Signs = SERVER_SENT_EVENTS
    generates: bool = True
    """False if the response depends on the prompt alone; the prompt is then only prepared."""


async def answer(request: web.Request, completion: Completion, form: Form) -> web.StreamResponse:
    """Run a completion and write its response. Raises `RequestError`."""
    model = request.headers.get(MODEL_HEADER, request.match_info["name"])
    try:
        if not form.generates:
            await completion.prepare()
            return await form.at_once(completion, model)
        await completion.start()
        if not completion.stream:
            return await form.at_once(completion, model)
        signs = form.signs.of(completion.echo.get("model", model))
        async with keep_alive.opened(request, signs) as reply:
            try:
                await form.stream(reply, completion, model)
            except ConnectionResetError:
                pass
            except Exception as error:  # noqa: BLE001  headers are sent; the error goes into the stream
                await reply.write(form.broken_off(failure(error)))
            return reply
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001  any error of the model is reported to the client
        body = msgspec.json.encode(form.error(failure(error), FAILED))
        return web.Response(status=FAILED, body=body, content_type="application/json")
    finally:
        if form.generates:
            completion.cancel()  # after an error or a disconnect nothing reads the rest


def failure(error: Exception) -> dict[str, str]:
    """Log an unexpected error and return the fields that are reported to the client."""
    logs.log_error(error)
    words = f"{type(error).__name__}: {error}"
    return {"type": "server_error", "code": "generation_failed", "message": words}
