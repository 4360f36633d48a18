"""Write answers of LM Studio's `/api/v0`: OpenAI's form plus statistics, model and runtime info.

Source of the fields: LM Studio's documentation, "REST API v0". In a stream, these fields come in a
separate event before the last one.
"""

from collections.abc import AsyncIterator
from typing import Any, cast

import msgspec
from aiohttp import web

from reconciler.worker.answers import Form
from reconciler.worker.completions import Completion, Piece
from reconciler.worker.dialects.openai import writing as openai
from reconciler.worker.keep_alive import Stream
from reconciler.worker.output import Delta

_DONE = b"data: [DONE]\n\n"


class Recorded:
    """A completion that records its last piece."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self.last = Piece(Delta(), 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._completion, name)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces of the completion, and record each."""
        async for piece in self._completion.pieces():
            self.last = piece
            yield piece


class _WithFacts:
    """A stream that inserts an event before the last one."""

    def __init__(self, reply: Stream, completion: Recorded, model: str) -> None:
        self._reply, self._completion, self._model = reply, completion, model

    async def write(self, data: bytes) -> None:
        """Write an event, preceded by the inserted one if it is the last."""
        if data == _DONE:
            completion = self._completion
            kind = "chat.completion.chunk" if completion.chat else "text_completion"
            head = {"id": completion.id, "object": kind, "created": completion.created}
            event = head | {"model": self._model, "choices": []} | _facts(completion)
            await self._reply.write(b"data: " + msgspec.json.encode(event) + b"\n\n")
        await self._reply.write(data)


async def _at_once(completion: Completion, model: str) -> web.Response:
    recorded = Recorded(completion)
    answer = await openai.FORM.at_once(cast("Completion", recorded), model)
    assert isinstance(answer.body, bytes)  # noqa: S101  OpenAI's form sets bytes
    body = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
    answer.body = msgspec.json.encode({**body, **_facts(recorded)})
    return answer


async def _stream(reply: Stream, completion: Completion, model: str) -> None:
    recorded = Recorded(completion)
    stream = _WithFacts(reply, recorded, model)
    await openai.FORM.stream(cast("Stream", stream), cast("Completion", recorded), model)


def stop_reason(last: Piece, prompt_tokens: int, context_length: int | None) -> str:
    """LM Studio's code for the end of an answer."""
    if last.finish_reason == "length":
        full = context_length is not None and prompt_tokens + last.tokens >= context_length
        return "contextLengthReached" if full else "maxPredictedTokensReached"
    if last.finish_reason == "tool_calls":
        return "toolCalls"
    return "stopStringFound" if last.delta.stopped else "eosFound"


def tokens_per_second(tokens: int, seconds: float) -> float:
    """Generation speed; 0 if the duration is 0."""
    return tokens / seconds if seconds > 0 else 0.0


def _facts(completion: Recorded) -> dict[str, Any]:
    timing, context, last = completion.timing, completion.context, completion.last
    return {
        "stats": {
            "tokens_per_second": tokens_per_second(last.tokens, timing.generation),
            "time_to_first_token": timing.first_token,
            "generation_time": timing.generation,
            "stop_reason": stop_reason(last, completion.prompt_tokens, completion.context_length),
        },
        "model_info": {
            "arch": context.architecture,
            "quant": context.quantization,
            "format": "mlx",
            "context_length": completion.context_length,
        },
        "runtime": {
            "name": "mlx",
            "version": context.runtime_version,
            "supported_formats": ["mlx"],
        },
    }


FORM = Form(_at_once, _stream, openai.FORM.broken_off)
