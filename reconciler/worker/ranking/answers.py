"""Run a reranking request and write the response in Jina's and Cohere's form."""

import asyncio
import math
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from reconciler.core.protocol import MODEL_HEADER, Lease
from reconciler.worker import logs
from reconciler.worker.admission import admitting, session_of
from reconciler.worker.batch import BATCH_SIZE
from reconciler.worker.errors import RequestError
from reconciler.worker.model import Model
from reconciler.worker.pending import Request
from reconciler.worker.ranking.request import Pairs
from reconciler.worker.thread import MlxThread

FAILED = 500


async def rank(
    request: web.Request, model: Model, mlx: MlxThread, data: bytes, lease: Lease
) -> web.Response:
    """Answer a reranking request. Raises `RequestError`."""
    name = request.match_info["name"]
    if model.reranker is None:
        words = (
            "this model is not a supported reranker; use Qwen3-Reranker, which is detected by the "
            "name of its directory or repository"
        )
        raise RequestError(words, "unsupported_model", "model")
    most = model.context_length(name)
    pairs = await asyncio.wrap_future(model.preprocessor.rank(data, model.reranker, most))
    scores: list[float] = []
    try:
        for begin in range(0, len(pairs.prompts), BATCH_SIZE):
            prompts = pairs.prompts[begin : begin + BATCH_SIZE]
            scores += await _scores(model, mlx, name, prompts, pairs, lease)
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001  every failure is reported to the client
        logs.log_error(error)
        words = f"{type(error).__name__}: {error}"
        failure = {"type": "server_error", "code": "reranking_failed", "message": words}
        return _json({"error": failure}, FAILED)
    return _json(_answer(request.headers.get(MODEL_HEADER, name), pairs, scores))


async def _scores(
    model: Model,
    mlx: MlxThread,
    name: str,
    prompts: Sequence[list[int]],
    pairs: Pairs,
    lease: Lease,
) -> list[float]:
    """Compute the probability of yes relative to no after each prompt."""
    loop = asyncio.get_running_loop()
    outcomes: list[asyncio.Future[float]] = [loop.create_future() for _ in prompts]

    def settle(outcome: "asyncio.Future[float]", result: float | Exception) -> None:
        if outcome.done():
            return
        if isinstance(result, Exception):
            outcome.set_exception(result)
        else:
            outcome.set_result(result)

    def request(prompt: list[int], outcome: "asyncio.Future[float]") -> Request:
        def emit(_token: int, _end: str | None, logprobs: Any) -> None:
            odds = float(logprobs[pairs.yes].item()) - float(logprobs[pairs.no].item())
            if math.isnan(odds):
                raise ValueError("the model computed NaN")
            loop.call_soon_threadsafe(settle, outcome, 1 / (1 + math.exp(-odds)))

        def fail(error: Exception) -> None:
            loop.call_soon_threadsafe(settle, outcome, error)

        return Request(prompt, 1, emit, fail, kept=False)

    requests = [request(p, outcome) for p, outcome in zip(prompts, outcomes, strict=True)]
    try:
        await asyncio.wrap_future(mlx.submit(lambda: _start(model, name, requests, lease)))
        return list(await asyncio.gather(*outcomes))
    except BaseException:  # the client disconnected, or the computation failed
        mlx.submit(lambda: _cancel(model, name, requests))
        raise


def _cancel(model: Model, name: str, requests: Sequence[Request]) -> None:
    for request in requests:
        model.cancel(name, request)


def _start(model: Model, name: str, requests: Sequence[Request], lease: Lease) -> None:
    """Start the requests in their session. Runs on the MLX thread. Raises `RequestError`."""
    session = session_of(model.session, name)
    session.kv_budget.take(lease)
    with admitting():
        session.start(*requests)


def _answer(model: str, pairs: Pairs, scores: Sequence[float]) -> dict[str, Any]:
    """Build the response: the `top_n` most relevant documents, best first."""
    tokens = sum(map(len, pairs.prompts))
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: pairs.top_n]
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": scores[index]} for index in order
    ]
    if pairs.documents is not None:
        for result in results:
            result["document"] = {"text": pairs.documents[result["index"]]}
    answer: dict[str, Any] = {
        "id": f"rerank-{uuid.uuid4().hex}",
        "object": "list",
        "model": model,
        "results": results,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return answer | ({"warnings": pairs.warnings} if pairs.warnings else {})


def _json(body: Any, status: int = 200) -> web.Response:
    data = msgspec.json.encode(body)
    return web.Response(body=data, status=status, content_type="application/json")
