"""Write completions in OpenAI's form: one JSON object, or server-sent events."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from reconciler.worker.answers import Form
from reconciler.worker.completions import Completion, Piece
from reconciler.worker.dialects.openai.logprobs import TextLogprobs, TokenTexts, of_chat
from reconciler.worker.keep_alive import Stream
from reconciler.worker.likelihood import Likelihood
from reconciler.worker.output import Delta


@dataclass
class _Answer:
    """One answer, as written so far."""

    logprobs: TextLogprobs
    whole: Delta = field(default_factory=Delta)
    likelihoods: list[Likelihood] = field(default_factory=list)
    calls: int = 0
    """Number of tool calls written."""
    finish_reason: str | None = None


def _answers(completion: Completion) -> list[_Answer]:
    texts = TokenTexts(completion.tokenizer)
    return [_Answer(TextLogprobs(texts)) for _ in range(completion.answers)]


class _Prompts:
    """Echoed prompts, each converted once for all of its answers."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self._written: dict[int, tuple[str, dict[str, Any] | None, int]] = {}

    async def begin(self, index: int, one: _Answer) -> tuple[str, dict[str, Any] | None]:
        """The prompt of an answer, and its log-probabilities if requested."""
        place = index // (self._completion.body.n or 1)
        if place not in self._written:
            text, tokens, likelihoods = self._completion.prompt_of(index)
            logprobs = None
            if self._completion.body.alternatives is not None:
                logprobs = await asyncio.to_thread(one.logprobs.begin, tokens[0], likelihoods)
            self._written[place] = text, logprobs, one.logprobs.offset
        text, logprobs, one.logprobs.offset = self._written[place]
        return text, logprobs


async def _at_once(completion: Completion, model: str) -> web.Response:
    answers, tokens = _answers(completion), 0
    async for piece in completion.pieces():
        one, tokens = answers[piece.index], piece.tokens
        one.whole.content += piece.delta.content
        one.whole.reasoning += piece.delta.reasoning
        one.whole.calls += piece.delta.calls
        one.likelihoods += piece.likelihoods
        one.finish_reason = piece.finish_reason
    prompts = _Prompts(completion)
    choices = []
    for index, one in enumerate(answers):
        if completion.body.echo:
            text, logprobs = await prompts.begin(index, one)
            choices.append(_after_prompt(completion, index, one, text, logprobs))
        else:
            choices.append(_choice(completion, index, one))
    kind = "chat.completion" if completion.chat else "text_completion"
    body = _head(completion, model, kind) | {
        "choices": choices,
        "usage": _usage(completion, tokens),
    }
    if completion.warnings:
        body["warnings"] = completion.warnings
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _choice(completion: Completion, index: int, one: _Answer) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": one.finish_reason}
    whole = one.whole
    if completion.chat:
        message: dict[str, Any] = {"role": "assistant", "content": whole.content}
        if whole.reasoning:
            message |= {"reasoning_content": whole.reasoning, "reasoning": whole.reasoning}
        if whole.calls:
            message |= {"tool_calls": whole.calls, "content": whole.content or None}
        return choice | {"message": message, "logprobs": _logprobs(completion, one.likelihoods)}
    return choice | {
        "text": whole.content,
        "logprobs": _logprobs(completion, one.likelihoods, one),
    }


def _after_prompt(
    completion: Completion,
    index: int,
    one: _Answer,
    prompt: str,
    logprobs: dict[str, Any] | None,
) -> dict[str, Any]:
    """A choice with the prompt and its log-probabilities prepended."""
    choice = _choice(completion, index, one)
    if logprobs is not None:
        more = choice["logprobs"]
        choice["logprobs"] = {key: values + more[key] for key, values in logprobs.items()}
    return choice | {"text": prompt + choice["text"]}


async def _stream(reply: Stream, completion: Completion, model: str) -> None:
    kind = "chat.completion.chunk" if completion.chat else "text_completion"
    head = _head(completion, model, kind)
    answers, count = _answers(completion), 0
    prompts = _Prompts(completion)
    unbegun = set(range(len(answers)))

    warnings = {"warnings": completion.warnings} if completion.warnings else {}

    async def send(data: Any) -> None:
        await reply.write(b"data: " + msgspec.json.encode(data | warnings) + b"\n\n")
        warnings.clear()  # sent with the first event only

    if completion.chat:
        first = {"role": "assistant", "content": ""}
        for index in range(len(answers)):
            choice = {"index": index, "delta": first, "finish_reason": None}
            await send(head | {"choices": [choice]})
    async for piece in completion.pieces():
        count = piece.tokens
        if piece.read is not None:
            progress = {
                "prompt_tokens_read": piece.read,
                "prompt_tokens": completion.prompt_tokens,
            }
            await send(head | {"choices": [], "progress": progress})
            continue
        one = answers[piece.index]
        if completion.body.echo and piece.index in unbegun:
            unbegun.discard(piece.index)
            text, logprobs = await prompts.begin(piece.index, one)
            choice = {"index": piece.index, "finish_reason": None, "text": text}
            await send(head | {"choices": [choice | {"logprobs": logprobs}]})
        await send(head | {"choices": [_chunk(completion, piece, one)]})
    options = completion.body.stream_options
    if options is not None and options.include_usage:
        await send(head | {"choices": [], "usage": _usage(completion, count)})
    await reply.write(b"data: [DONE]\n\n")


def _chunk(completion: Completion, piece: Piece, one: _Answer) -> dict[str, Any]:
    """The choice object of a chunk."""
    delta = piece.delta
    content = _delta(delta, one.calls) if completion.chat else {"text": delta.content}
    one.calls += len(delta.calls)
    choice = {"index": piece.index, "finish_reason": piece.finish_reason} | content
    return choice | {"logprobs": _logprobs(completion, piece.likelihoods, one)}


def _delta(delta: Delta, calls: int) -> dict[str, Any]:
    """The `delta` object of a chat chunk; `calls` is the number of earlier tool calls."""
    added: dict[str, Any] = {}
    if delta.content:
        added["content"] = delta.content
    if delta.reasoning:  # DeepSeek's key, which most clients read, and OpenRouter's
        added |= {"reasoning_content": delta.reasoning, "reasoning": delta.reasoning}
    if delta.calls:
        added["tool_calls"] = [{"index": calls + i} | c for i, c in enumerate(delta.calls)]
    return {"delta": added}


def _logprobs(
    completion: Completion, likelihoods: list[Likelihood], one: _Answer | None = None
) -> dict[str, Any] | None:
    """Log-probabilities in the form of a chat, or of the text completion `one`."""
    if completion.body.alternatives is None:
        return None
    if completion.chat or one is None:
        return of_chat(completion.tokenizer, likelihoods)
    return one.logprobs.add(likelihoods)


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
