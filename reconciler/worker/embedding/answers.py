"""Run an embeddings request and write the response in its dialect."""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from reconciler.core.dialects import Dialect, ErrorForm, ollama_error, openai_error
from reconciler.core.protocol import CONTEXT_HEADER, MODEL_HEADER, Lease, RequestContext
from reconciler.worker import logs
from reconciler.worker.admission import admitting, session_of
from reconciler.worker.embedding.request import Texts
from reconciler.worker.embedding.session import EmbeddingRequest
from reconciler.worker.errors import RequestError
from reconciler.worker.model import Model
from reconciler.worker.thread import MlxThread
from reconciler.worker.timing import Timing

SMALLEST_LENGTH = 1e-12
"""Lower bound of the norm when normalizing a vector, as in torch's `normalize`."""

FAILED = 500


@dataclass(frozen=True)
class Answer:
    """Inputs for writing a response."""

    model: str
    """Model name that the client used."""
    texts: Texts
    vectors: list[Any]
    """A float32 numpy array (dimensions,) for each text."""
    timing: Timing


@dataclass(frozen=True)
class EmbeddingForm:
    """Serialization of vectors and errors in a dialect. `write` may be slow for long responses."""

    write: Callable[[Answer], bytes]
    error: ErrorForm = openai_error


async def embed(
    request: web.Request,
    model: Model,
    mlx: MlxThread,
    data: bytes,
    dialect: Dialect,
    lease: Lease,
) -> web.Response:
    """Answer an embeddings request. Raises `RequestError`."""
    name, form = request.match_info["name"], EMBEDDING_FORMS[dialect]
    if model.embedder is None:
        words = (
            "this model generates text and makes no embeddings; use an embedding model (`type` "
            '"embedding" in GET /api/v1/models)'
        )
        raise RequestError(words, "unsupported_model", "model")
    context = RequestContext.parse(request.headers.get(CONTEXT_HEADER))
    timing = Timing(context.waited_seconds)
    most = model.context_length(name)
    texts = await asyncio.wrap_future(model.preprocessor.tokenize(data, most, dialect=dialect))
    try:
        vectors = await _computed(model, mlx, name, texts, lease)
        echoed = request.headers.get(MODEL_HEADER, name)
        answer = Answer(echoed, texts, vectors, timing)
        body = await asyncio.to_thread(_written, form, answer)
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001  every failure is reported to the client
        logs.log_error(error)
        words = f"{type(error).__name__}: {error}"
        failure = {"type": "server_error", "code": "embedding_failed", "message": words}
        body = msgspec.json.encode(form.error(failure, FAILED))
        return web.Response(status=FAILED, body=body, content_type="application/json")
    return web.Response(body=body, content_type="application/json")


async def _computed(
    model: Model, mlx: MlxThread, name: str, texts: Texts, lease: Lease
) -> list[Any]:
    """Compute the vectors of the texts, before truncation and normalization."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[list[Any]] = loop.create_future()

    def settle(vectors: list[Any] | None, error: Exception | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(vectors or [])

    def settle_soon(vectors: list[Any] | None, error: Exception | None) -> None:
        loop.call_soon_threadsafe(settle, vectors, error)

    wanted = EmbeddingRequest(
        texts.tokens,
        texts.skips,
        lambda vectors: settle_soon(vectors, None),
        lambda error: settle_soon(None, error),
    )
    try:
        await asyncio.wrap_future(mlx.submit(lambda: _begin(model, name, wanted, lease)))
        return await outcome
    except BaseException:  # the client disconnected, or the computation failed
        mlx.submit(lambda: model.cancel(name, wanted))
        raise


def _begin(model: Model, name: str, request: EmbeddingRequest, lease: Lease) -> None:
    """Start the request in its session. Runs on the MLX thread. Raises `RequestError`."""
    session = session_of(model.embedding_session, name)
    session.kv_budget.take(lease)
    with admitting():
        session.start(request)


def _written(form: EmbeddingForm, answer: Answer) -> bytes:
    """Write the body. Raises ValueError if a vector contains NaN or infinity."""
    texts = answer.texts
    finished = [
        finished_vector(vector, texts.dimensions, normalized=texts.normalized, index=index)
        for index, vector in enumerate(answer.vectors)
    ]
    return form.write(replace(answer, vectors=finished))


def finished_vector(vector: Any, dimensions: int, *, normalized: bool, index: int = 0) -> Any:
    """Return the first `dimensions` numbers, scaled to length 1 if `normalized`.

    Raises ValueError, with the text's `index`, if a number is NaN or infinite.
    """
    short = vector[:dimensions]
    if normalized:
        short = short / max(float(np.linalg.norm(short.astype(np.float64))), SMALLEST_LENGTH)
    short = short.astype(np.float32)
    if not np.isfinite(short).all():
        raise ValueError(f"the model computed NaN or infinity for text {index}")
    return short


def _openai(answer: Answer) -> bytes:
    texts = answer.texts
    data = [
        msgspec.json.encode({"object": "embedding", "index": index, "embedding": embedding})
        for index, embedding in enumerate(
            base64.b64encode(vector.astype("<f4").tobytes()).decode()
            if texts.base64
            else vector.tolist()
            for vector in answer.vectors
        )
    ]
    rest: dict[str, Any] = {
        "model": answer.model,
        "usage": {"prompt_tokens": texts.count, "total_tokens": texts.count},
    }
    if texts.warnings:
        rest["warnings"] = texts.warnings
    return b'{"object":"list","data":[%b],%b' % (b",".join(data), msgspec.json.encode(rest)[1:])


def _ollama(answer: Answer) -> bytes:
    """Write Ollama's form. Durations are in nanoseconds, at least 1: clients divide by them."""
    texts, timing = answer.texts, answer.timing
    made: dict[str, Any] = {
        "model": texts.echo["model"],
        "embeddings": [vector.tolist() for vector in answer.vectors],
        "total_duration": max(1, round(timing.total * 1e9)),
        "load_duration": max(1, round(timing.waited * 1e9)),
        "prompt_eval_count": texts.count,
    }
    return msgspec.json.encode(made | _warnings(texts))


def _ollama_of_one(answer: Answer) -> bytes:
    (vector,) = answer.vectors
    return msgspec.json.encode({"embedding": vector.tolist()} | _warnings(answer.texts))


def _warnings(texts: Texts) -> dict[str, Any]:
    return {"warnings": texts.warnings} if texts.warnings else {}


EMBEDDING_FORMS: dict[Dialect, EmbeddingForm] = {
    Dialect.EMBEDDINGS: EmbeddingForm(_openai),
    Dialect.OLLAMA_EMBED: EmbeddingForm(_ollama, ollama_error),
    Dialect.OLLAMA_EMBEDDINGS: EmbeddingForm(_ollama_of_one, ollama_error),
}
