"""The worker's HTTP server: parses requests, submits them to the MLX thread, and responds."""

import asyncio
import threading
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from io import BytesIO
from typing import Any

import msgspec
from aiohttp import web

from reconciler.core.dialects import Dialect, ErrorForm, openai_error
from reconciler.core.protocol import (
    CONTEXT_HEADER,
    LEASE_HEADER,
    Lease,
    LoadWeights,
    OpenSession,
    Pulse,
    Recall,
    Recalled,
    RequestContext,
    SeeShapes,
    SessionOpened,
    WeightsLoaded,
    WeightsRead,
    WorkerFailure,
)
from reconciler.worker import logs
from reconciler.worker.answers import answer
from reconciler.worker.completions import Completion
from reconciler.worker.dialects.writing import FORMS
from reconciler.worker.embedding.answers import EMBEDDING_FORMS, embed
from reconciler.worker.errors import RequestError
from reconciler.worker.heartbeat import Heartbeat
from reconciler.worker.model import Model
from reconciler.worker.ranking.answers import rank
from reconciler.worker.read_ahead import ReadAhead
from reconciler.worker.thread import MlxThread

_PERMANENT = (FileNotFoundError, ImportError, KeyError, TypeError, ValueError)
"""Exceptions of mlx_lm for files that will not load at a retry either."""

FLUSH_SECONDS = 3.0
"""Time to finish writing kept prompts to disk before they are released."""

MAX_BODY = 16_000_000
"""Maximum size of a request [bytes]."""

ERROR_FORM: web.RequestKey[ErrorForm] = web.RequestKey("error_form", Callable)  # type: ignore[arg-type]
"""Key of a request: error format of its client's dialect."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(
    socket: str, model: Model, mlx: MlxThread, heartbeat: Heartbeat, memory: Callable[[], int]
) -> None:
    """Serve on `socket` in a new thread; return once it listens.

    `memory`: returns the memory of this process [bytes].
    """
    listening: Future[None] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(socket, _app(model, mlx, heartbeat, memory), listening)),
        name="http",
        daemon=True,
    )
    thread.start()
    listening.result()


async def _serve(socket: str, app: web.Application, listening: "Future[None]") -> None:
    try:
        # A disconnecting client cancels its handler, which frees its slot in the batch.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.UnixSite(runner, socket).start()
    except BaseException as error:
        listening.set_exception(error)
        raise
    listening.set_result(None)
    await asyncio.Event().wait()


def _app(
    model: Model, mlx: MlxThread, heartbeat: Heartbeat, memory: Callable[[], int]
) -> web.Application:
    ahead = ReadAhead()

    async def on_mlx(job: Callable[[], Any]) -> web.Response:
        return _reply(await asyncio.wrap_future(mlx.submit(job)))

    async def load(request: web.Request) -> web.StreamResponse:
        command = msgspec.json.decode(await request.read(), type=LoadWeights)
        lines: asyncio.Queue[WeightsRead | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put_line(line: WeightsRead | None) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, line)

        loading = mlx.submit(lambda: model.load(command, put_line))
        loading.add_done_callback(lambda _: put_line(None))
        reply = web.StreamResponse()
        await reply.prepare(request)
        while (line := await lines.get()) is not None:
            await reply.write(msgspec.json.encode(line) + b"\n")
        try:
            last: WeightsLoaded | WorkerFailure = loading.result()
        except Exception as error:  # noqa: BLE001  any error is reported to the daemon
            traceback.print_exception(error)  # for the log
            last = _failure(error)
        await reply.write(msgspec.json.encode(last) + b"\n")
        return reply

    async def see(request: web.Request) -> web.Response:
        command = msgspec.json.decode(await request.read(), type=SeeShapes)
        return await on_mlx(lambda: model.see(command))

    async def open_session(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        command = msgspec.json.decode(await request.read(), type=OpenSession)
        opened = await _open(model, mlx, ahead, name, command)
        defaults = await asyncio.to_thread(model.set_defaults, name, command.defaults)
        return _reply(defaults.added_to(opened, command.defaults))

    async def close_session(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        await asyncio.to_thread(model.flush, FLUSH_SECONDS)
        return await on_mlx(lambda: model.close(name))

    async def recall(request: web.Request) -> web.Response:
        command = msgspec.json.decode(await request.read(), type=Recall)
        # The recall must finish even if its caller does not wait for the end of a long step.
        return await asyncio.shield(on_mlx(lambda: _recall(model, memory, command)))

    async def probe(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return await on_mlx(lambda: model.probe(name))

    app = web.Application(middlewares=[_failures], client_max_size=MAX_BODY)
    _add_dialects(app, model, mlx)
    app.router.add_post("/shapes", see)
    app.router.add_get("/pulse", partial(_pulse, model, mlx, heartbeat, memory))
    app.router.add_post("/checkpoint", load)
    app.router.add_post("/leases", recall)
    app.router.add_post("/sessions/{name:.+}/probe", probe)
    app.router.add_put("/sessions/{name:.+}", open_session)
    app.router.add_delete("/sessions/{name:.+}", close_session)
    return app


def _add_dialects(app: web.Application, model: Model, mlx: MlxThread) -> None:
    """Add the routes of clients' requests."""
    for dialect in FORMS:
        path = f"/sessions/{{name}}/{dialect}"
        app.router.add_post(path, partial(_complete, model, mlx, dialect))
    app.router.add_post(f"/sessions/{{name}}/{Dialect.RERANK}", partial(_rank, model, mlx))
    for dialect in EMBEDDING_FORMS:
        path = f"/sessions/{{name}}/{dialect}"
        app.router.add_post(path, partial(_embed, model, mlx, dialect))


async def _complete(
    model: Model, mlx: MlxThread, dialect: Dialect, request: web.Request
) -> web.StreamResponse:
    name, form = request.match_info["name"], FORMS[dialect]
    request[ERROR_FORM] = form.error
    if model.embedder is not None:
        words = (
            "this model makes embeddings and generates no text: use POST /v1/embeddings, or "
            "another model"
        )
        raise RequestError(words, "unsupported_model", "model")
    lease = Lease.parse(request.headers.get(LEASE_HEADER))
    context = RequestContext.parse(request.headers.get(CONTEXT_HEADER))
    data = await _read(request)
    completion = Completion(model, mlx, name, data, dialect=dialect, lease=lease, context=context)
    return await answer(request, completion, form)


async def _rank(model: Model, mlx: MlxThread, request: web.Request) -> web.Response:
    lease = Lease.parse(request.headers.get(LEASE_HEADER))
    return await rank(request, model, mlx, await _read(request), lease)


async def _embed(
    model: Model, mlx: MlxThread, dialect: Dialect, request: web.Request
) -> web.Response:
    request[ERROR_FORM] = EMBEDDING_FORMS[dialect].error
    lease = Lease.parse(request.headers.get(LEASE_HEADER))
    return await embed(request, model, mlx, await _read(request), dialect, lease)


async def _read(request: web.Request) -> bytes:
    """Read the body. `request.read` would keep it in memory until the connection closes."""
    body = BytesIO()  # `getvalue` does not copy
    async for piece in request.content.iter_any():
        body.write(piece)
        if body.tell() > MAX_BODY:
            raise web.HTTPRequestEntityTooLarge(MAX_BODY, body.tell())
    return body.getvalue()


async def _open(
    model: Model, mlx: MlxThread, ahead: ReadAhead, name: str, command: OpenSession
) -> SessionOpened:
    """Open a session; others are stepped while the weights that it needs are read."""
    try:
        for directory in model.unread(command):
            await ahead.read(directory)
        more = True
        while more:  # streams get a token in between
            read = mlx.submit(lambda: model.prepare(name, command), after_step=True)
            more = await asyncio.wrap_future(read)
        return await asyncio.wrap_future(mlx.submit(lambda: model.open(name, command)))
    except BaseException:
        mlx.submit(lambda: model.abandon(name))
        raise


def _recall(model: Model, memory: Callable[[], int], command: Recall) -> Recalled:
    in_use = model.recall(command)
    return Recalled(in_use, max(0, memory() - model.kept_bytes()))


async def _pulse(
    model: Model,
    mlx: MlxThread,
    heartbeat: Heartbeat,
    memory: Callable[[], int],
    _request: web.Request,
) -> web.Response:
    allowance, steps = heartbeat.allowance, heartbeat.beats  # order: see `Heartbeat.beating`
    activity = model.activity()
    kept = sum(one.kept_bytes for one in activity.values())
    return _reply(Pulse(steps, mlx.busy, allowance, model.usage(), memory(), kept, activity))


def _reply(result: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(result), content_type="application/json")


@web.middleware
async def _failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except RequestError as error:
        problem = {"type": error.type, "message": str(error), "code": error.code}
        if error.param:
            problem["param"] = error.param
        form: ErrorForm = request.get(ERROR_FORM, openai_error)
        body = msgspec.json.encode(form(problem, error.status))
        return web.Response(status=error.status, body=body, content_type="application/json")
    except Exception as error:  # noqa: BLE001  any error is reported to the daemon
        body = msgspec.json.encode(_unforeseen(error))
        return web.Response(status=500, body=body, content_type="application/json")


def _unforeseen(error: Exception) -> WorkerFailure:
    logs.log_error(error)
    return _failure(error)


def _failure(error: Exception) -> WorkerFailure:
    """Convert an error to the failure that is reported to the daemon."""
    words = f"{type(error).__name__}: {error}"
    return WorkerFailure(words, permanent=isinstance(error, _PERMANENT))
