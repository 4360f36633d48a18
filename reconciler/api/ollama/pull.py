"""Ollama's downloads, and routes of its API that are not supported."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from reconciler.api.body import MAX_BYTES, parsed, receive
from reconciler.api.context import CONTROLLER
from reconciler.api.describe import describe
from reconciler.api.early_stream import KEEP_ALIVE_SECONDS
from reconciler.api.encode import encode
from reconciler.api.errors import ApiError, of_mistake, of_problem, reply
from reconciler.api.ollama.bodies import decoded
from reconciler.api.ollama.names import OLLAMA_ERROR
from reconciler.core.ollama import LINES, without_latest
from reconciler.core.records import ModelRef
from reconciler.core.schema import check
from reconciler.models.download import Job

routes = web.RouteTableDef()

HUBS = ("hf.co/", "huggingface.co/")
"""Host prefixes in Ollama's names of models on the hub."""

PULLING = {"status": "pulling manifest"}
SUCCESS = {"status": "success"}


class Pull(msgspec.Struct):
    """Body of `/api/pull`; `name` is the former name of `model`."""

    model: str = ""
    name: str = ""
    stream: bool | None = None
    insecure: bool | None = None
    username: str | None = None
    password: str | None = None


@routes.post("/api/pull")
@describe({200: {"type": "object"}}, error=OLLAMA_ERROR)
async def pull(request: web.Request) -> web.StreamResponse:
    """Download a model from the hub, reporting progress as lines of JSON."""
    asked = await parsed(await receive(request, MAX_BYTES), _pull)
    job = request.app[CONTROLLER].downloads.begin(_ref(asked.model or asked.name))
    if asked.stream is False:
        async for _ in _progress(job):
            pass
        if job.problem is not None:
            raise of_problem(job.problem)
        return reply(SUCCESS)
    stream = web.StreamResponse(headers={"Content-Type": LINES})
    await stream.prepare(request)
    try:
        await stream.write(_line(PULLING))
        async for line in _progress(job):
            await stream.write(_line(line))
        last = SUCCESS if job.problem is None else {"error": job.problem.message}
        await stream.write(_line(last))
    except ConnectionResetError:
        pass  # the download continues
    return stream


def _pull(body: bytes) -> Pull:
    asked = decoded(body, Pull)
    if asked.insecure:
        words = "insecure is not supported: models are downloaded from the hub by HTTPS; omit it"
        raise ApiError(400, "invalid_request", words, "unsupported_parameter", "insecure")
    return asked


def _ref(name: str) -> ModelRef:
    """Resolve a name to a model on the hub; a tag is its revision. Raises `ApiError`."""
    for hub in HUBS:
        name = name.removeprefix(hub)
    model, _, revision = without_latest(name).partition(":")
    body = {"model": model} | ({"revision": revision} if revision else {})
    if mistakes := check("download-request", body):
        raise of_mistake(mistakes[0])
    return ModelRef(model, revision or None)


async def _progress(job: Job) -> AsyncIterator[dict[str, Any]]:
    """Yield the progress of a download after each step, and periodically, until it ends."""
    named = f"{job.ref.model}@{job.ref.revision or ''}"
    digest = f"sha256:{hashlib.sha256(named.encode()).hexdigest()}"

    def line() -> dict[str, Any]:
        if job.total is None:
            return PULLING
        status = f"pulling {job.ref.model}"
        sizes = {"total": job.total, "completed": job.downloaded}
        return {"status": status, "digest": digest, **sizes}

    while job.status == "downloading":
        changed = job.changed
        yield line()
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                await changed.wait()
        except TimeoutError:
            continue
    if job.status == "completed":  # the last step may coincide with the end
        yield line()


def _line(value: dict[str, Any]) -> bytes:
    return encode(value) + b"\n"


@routes.post("/api/create")
@routes.post("/api/copy")
@routes.post("/api/push")
@routes.delete("/api/delete")
@routes.post("/api/blobs/{digest}")
@describe({}, error=OLLAMA_ERROR)
async def unsupported(request: web.Request) -> web.Response:
    """Not supported: models are directories of files, which these routes do not change."""
    message = (
        f"{request.path} is not supported: models are directories of files; add them with "
        "/api/pull or by hand, and remove them by hand; load instances with "
        "/api/v1/models/load or a manifest"
    )
    raise ApiError(400, "invalid_request", message, "not_supported")
