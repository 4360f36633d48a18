"""Write answers in Ollama's form: one JSON object, or a stream of one object per line.

Source of the fields: Ollama's API reference and `api/types.go`. Durations are in nanoseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from reconciler.core.dialects import ollama_error
from reconciler.core.ollama import LINES, NO_MESSAGE, NO_RESPONSE, sign_of_life, timestamp
from reconciler.worker.answers import Form
from reconciler.worker.completions import Completion, Piece
from reconciler.worker.keep_alive import Signs, Stream
from reconciler.worker.likelihood import Likelihood
from reconciler.worker.output import Delta


@dataclass
class _Part:
    """Content of a line or of the whole answer."""

    delta: Delta = field(default_factory=Delta)
    likelihoods: list[Likelihood] = field(default_factory=list)
    calls: int = 0
    """Number of tool calls before this part."""


Fields = Callable[[_Part], dict[str, Any]]


def _message(part: _Part) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": part.delta.content}
    if part.delta.reasoning:
        message["thinking"] = part.delta.reasoning
    if part.delta.calls:
        calls = enumerate(part.delta.calls, part.calls)
        message["tool_calls"] = [_call(index, call) for index, call in calls]
    return {"message": message}


def _call(index: int, call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = msgspec.Raw(function["arguments"].encode())  # already JSON
    return {
        "id": call["id"],
        "function": {"index": index, "name": function["name"], "arguments": arguments},
    }


def _response(part: _Part) -> dict[str, Any]:
    made = {"response": part.delta.content}
    return made | {"thinking": part.delta.reasoning} if part.delta.reasoning else made


async def _at_once(fields_of: Fields, completion: Completion, model: str) -> web.Response:
    whole, last = _Part(), Piece(Delta(), 0)
    async for last in completion.pieces():
        whole.delta.content += last.delta.content
        whole.delta.reasoning += last.delta.reasoning
        whole.delta.calls += last.delta.calls
        whole.likelihoods += last.likelihoods
    body = _head(completion, model) | fields_of(whole) | {"done": True}
    body |= _end(completion, last) | _likelihoods(completion, whole.likelihoods)
    if warnings := _warnings(completion):
        body["warnings"] = warnings
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _stream(fields_of: Fields, reply: Stream, completion: Completion, model: str) -> None:
    warnings = _warnings(completion)
    more = {"warnings": warnings} if warnings else {}

    async def write(line: dict[str, Any]) -> None:
        await reply.write(msgspec.json.encode(_head(completion, model) | line | more) + b"\n")
        more.clear()  # sent with the first line only

    calls, last = 0, Piece(Delta(), 0)
    async for last in completion.pieces():
        delta = last.delta
        if delta.content or delta.reasoning or delta.calls or last.likelihoods:
            line = fields_of(_Part(delta, calls=calls)) | {"done": False}
            await write(line | _likelihoods(completion, last.likelihoods))
            calls += len(delta.calls)
    await write(fields_of(_Part()) | {"done": True} | _end(completion, last))


def _head(completion: Completion, model: str) -> dict[str, Any]:
    return {
        "model": completion.echo.get("model", model),
        "created_at": timestamp(datetime.now(UTC)),
    }


def _end(completion: Completion, last: Piece) -> dict[str, Any]:
    """Reason of the end, durations and token counts."""
    timing = completion.timing
    return {
        "done_reason": "length" if last.finish_reason == "length" else "stop",
        "total_duration": _nanoseconds(timing.total),
        "load_duration": _nanoseconds(timing.waited),
        "prompt_eval_count": completion.prompt_tokens,
        "prompt_eval_duration": _nanoseconds(timing.prompt),
        "eval_count": last.tokens,
        "eval_duration": _nanoseconds(timing.generation),
    }


def _nanoseconds(seconds: float) -> int:
    """Convert to nanoseconds, at least 1: clients divide by them."""
    return max(1, round(seconds * 1e9))


def _warnings(completion: Completion) -> list[str]:
    asked, given = completion.echo.get("num_ctx"), completion.context_length
    if asked is None or asked == given:
        return completion.warnings
    words = f"options.num_ctx: has no effect; the context length of this instance is {given}"
    return [words, *completion.warnings]


def _likelihoods(completion: Completion, likelihoods: list[Likelihood]) -> dict[str, Any]:
    if completion.body.alternatives is None or not likelihoods:
        return {}

    def named(token: int, logprob: float) -> dict[str, Any]:
        text = str(completion.tokenizer.decode([token]))
        made: dict[str, Any] = {"token": text, "logprob": logprob}
        # The bytes of a partial character are unknown.
        return made if "\ufffd" in text else made | {"bytes": list(text.encode())}

    def one(likelihood: Likelihood) -> dict[str, Any]:
        made = named(likelihood.token, likelihood.logprob)
        if likelihood.alternatives:
            made["top_logprobs"] = [named(*other) for other in likelihood.alternatives]
        return made

    return {"logprobs": [one(likelihood) for likelihood in likelihoods]}


def _broken_off(error: dict[str, str]) -> bytes:
    return msgspec.json.encode(ollama_error(error, 500)) + b"\n"


def _form(fields_of: Fields, nothing: dict[str, Any]) -> Form:
    def alive(model: str) -> bytes:
        return sign_of_life(model, nothing, datetime.now(UTC))

    signs = Signs(LINES, None, alive)
    return Form(
        partial(_at_once, fields_of), partial(_stream, fields_of), _broken_off, ollama_error, signs
    )


CHAT = _form(_message, NO_MESSAGE)
GENERATE = _form(_response, NO_RESPONSE)
