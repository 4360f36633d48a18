"""A completion in OpenAI's form: JSON at once, or server-sent events as it comes."""

from typing import Any

import msgspec
from aiohttp import web

from reconciler.worker.answers import Form
from reconciler.worker.completions import Completion, Piece
from reconciler.worker.keep_alive import Stream
from reconciler.worker.likelihood import Likelihood
from reconciler.worker.output import Delta


async def _at_once(completion: Completion, model: str) -> web.Response:
    whole, likelihoods, last = Delta(), [], Piece(Delta(), 0)
    async for last in completion.pieces():
        whole.content += last.delta.content
        whole.reasoning += last.delta.reasoning
        whole.calls += last.delta.calls
        likelihoods += last.likelihoods
    choice: dict[str, Any] = {"index": 0, "finish_reason": last.finish_reason}
    if completion.chat:
        message: dict[str, Any] = {"role": "assistant", "content": whole.content}
        if whole.reasoning:
            message |= {"reasoning_content": whole.reasoning, "reasoning": whole.reasoning}
        if whole.calls:
            message |= {"tool_calls": whole.calls, "content": whole.content or None}
        choice["message"] = message
    else:
        choice["text"] = whole.content
    choice["logprobs"] = _logprobs(completion, likelihoods)
    kind = "chat.completion" if completion.chat else "text_completion"
    body = _head(completion, model, kind) | {
        "choices": [choice],
        "usage": _usage(completion, last.tokens),
    }
    if completion.warnings:
        body["warnings"] = completion.warnings
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _stream(reply: Stream, completion: Completion, model: str) -> None:
    kind = "chat.completion.chunk" if completion.chat else "text_completion"
    head = _head(completion, model, kind)
    count = calls = 0

    warnings = {"warnings": completion.warnings} if completion.warnings else {}

    async def send(data: Any) -> None:
        await reply.write(b"data: " + msgspec.json.encode(data | warnings) + b"\n\n")
        warnings.clear()  # the first event has them

    if completion.chat:
        first = {"role": "assistant", "content": ""}
        await send(head | {"choices": [{"index": 0, "delta": first, "finish_reason": None}]})
    async for piece in completion.pieces():
        count = piece.tokens
        if piece.read is not None:
            progress = {
                "prompt_tokens_read": piece.read,
                "prompt_tokens": completion.prompt_tokens,
            }
            await send(head | {"choices": [], "progress": progress})
            continue
        delta = piece.delta
        content = _delta(delta, calls) if completion.chat else {"text": delta.content}
        calls += len(delta.calls)
        choice = {"index": 0, "finish_reason": piece.finish_reason} | content
        choice |= {"logprobs": _logprobs(completion, piece.likelihoods)}
        await send(head | {"choices": [choice]})
    options = completion.body.stream_options
    if options is not None and options.include_usage:
        await send(head | {"choices": [], "usage": _usage(completion, count)})
    await reply.write(b"data: [DONE]\n\n")


def _delta(delta: Delta, calls: int) -> dict[str, Any]:
    """The addition of a chunk of a chat; `calls` tool calls came before."""
    added: dict[str, Any] = {}
    if delta.content:
        added["content"] = delta.content
    if delta.reasoning:  # DeepSeek's name for it, which most clients read, and OpenRouter's
        added |= {"reasoning_content": delta.reasoning, "reasoning": delta.reasoning}
    if delta.calls:
        added["tool_calls"] = [{"index": calls + i} | c for i, c in enumerate(delta.calls)]
    return {"delta": added}


def _logprobs(completion: Completion, likelihoods: list[Likelihood]) -> dict[str, Any] | None:
    """Log-probabilities: chats and texts have them in forms of their own."""
    if completion.body.alternatives is None:
        return None

    def text(token: int) -> str:
        return str(completion.tokenizer.decode([token]))

    if not completion.chat:
        return {
            "tokens": [text(one.token) for one in likelihoods],
            "token_logprobs": [one.logprob for one in likelihoods],
            "top_logprobs": [{text(t): p for t, p in one.alternatives} for one in likelihoods],
        }

    def told(token: int, logprob: float) -> dict[str, Any]:
        words = text(token)
        whole = "\ufffd" not in words  # else a part of a character, whose bytes are not known
        return {
            "token": words,
            "logprob": logprob,
            "bytes": list(words.encode()) if whole else None,
        }

    return {
        "content": [
            told(one.token, one.logprob) | {"top_logprobs": [told(*a) for a in one.alternatives]}
            for one in likelihoods
        ]
    }


def _broken_off(error: dict[str, str]) -> bytes:
    return b"data: " + msgspec.json.encode({"error": error}) + b"\n\n"


def _head(completion: Completion, model: str, kind: str) -> dict[str, Any]:
    return {"id": completion.id, "object": kind, "created": completion.created, "model": model}


def _usage(completion: Completion, tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": completion.prompt_tokens + tokens,
        "prompt_tokens_details": {"cached_tokens": completion.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": completion.reasoning_tokens},
    }


FORM = Form(_at_once, _stream, _broken_off)
