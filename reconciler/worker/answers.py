"""Runs a completion and writes its answer in a dialect's form."""

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
    """How a dialect writes answers.

    What `at_once` and `stream` raise is written by `error` or `broken_off`; `stream` may also raise
    ConnectionResetError.
    """

    at_once: Callable[[Completion, str], Awaitable[web.Response]]
    """The whole answer, with the model's name as the client knows it."""
    stream: Callable[[Stream, Completion, str], Awaitable[None]]
    """Write it as it comes."""
    broken_off: Callable[[dict[str, str]], bytes]
    """What ends a stream with an error."""
    error: ErrorForm = openai_error
    signs: Signs = SERVER_SENT_EVENTS
    generates: bool = True
    """False if the answer is about the prompt alone, which is then only prepared."""


async def answer(request: web.Request, completion: Completion, form: Form) -> web.StreamResponse:
    """Run a completion and write its answer. Raises `RequestError`."""
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
            except Exception as error:  # noqa: BLE001  headers are sent: the stream itself says it
                await reply.write(form.broken_off(failure(error)))
            return reply
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001  whatever the model raised, the client gets to know
        body = msgspec.json.encode(form.error(failure(error), FAILED))
        return web.Response(status=FAILED, body=body, content_type="application/json")
    finally:
        if form.generates:
            completion.cancel()  # whatever went wrong, or the client went away: nobody reads it


def failure(error: Exception) -> dict[str, str]:
    """What a client gets to know of an error that nobody foresaw, which is logged."""
    logs.log_error(error)
    words = f"{type(error).__name__}: {error}"
    return {"type": "server_error", "code": "generation_failed", "message": words}
