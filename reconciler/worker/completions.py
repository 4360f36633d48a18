"""OpenAI's completion routes on a session: JSON at once, or server-sent events as it comes."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web
from mlx_lm.generate import TextStateMachine

from reconciler.core.protocol import MODEL_HEADER
from reconciler.worker import request as requests
from reconciler.worker import sampling
from reconciler.worker.model import Model
from reconciler.worker.request import Body, Overloaded, RequestError
from reconciler.worker.session import OverloadedError
from reconciler.worker.thread import MlxThread


@dataclass
class Piece:
    """A part of a completion: text that is certain not to be part of a stop, and the end."""

    text: str
    tokens: int
    finish_reason: str | None = None


class Completion:
    """One completion of one request."""

    def __init__(self, model: Model, mlx: MlxThread, name: str, body: Body, *, chat: bool) -> None:
        self._model, self._mlx, self._name = model, mlx, name
        self.body, self.chat = body, chat
        self.prompt_tokens = 0
        self.stream = bool(body.stream)
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self._tokens: asyncio.Queue[tuple[int, str | None] | Exception] = asyncio.Queue()
        self._uid: int | None = None

    async def start(self) -> None:
        """Check it and put it into the session's batch. Raises `RequestError`."""
        prompt = requests.tokens(
            self.body, self._model.tokenizer, self._model.vocabulary, chat=self.chat
        )
        self.prompt_tokens = len(prompt)
        loop = asyncio.get_running_loop()

        def put(item: tuple[int, str | None] | Exception) -> None:
            loop.call_soon_threadsafe(self._tokens.put_nowait, item)

        def begin() -> None:
            session = self._model.session(self._name)
            room = session.config.context_length - len(prompt)
            if room < 1:
                raise RequestError(
                    f"the prompt has {len(prompt)} tokens; the context length of this instance is "
                    f"{session.config.context_length}, of which at least 1 is the completion's",
                    "context_length_exceeded",
                    "messages" if self.chat else "prompt",
                )
            try:
                processors = sampling.processors(self.body, self._model.vocabulary)
            except ValueError as error:
                raise RequestError(str(error), "invalid_value", "logit_bias") from None
            limit = min(room, self.body.limit or room)
            sampler = sampling.sampler(self.body)
            # Noted on this thread, so that a cancellation that follows always finds it.
            try:
                self._uid = session.start(
                    prompt, limit, lambda token, end: put((token, end)), put, sampler, processors
                )
            except OverloadedError as error:
                raise Overloaded(str(error), "overloaded") from None

        await asyncio.wrap_future(self._mlx.submit(begin))

    async def pieces(self) -> AsyncIterator[Piece]:
        """The text as it comes. Raises what the model raised."""
        detokenizer = self._model.tokenizer.detokenizer
        stops = [(stop, None) for stop in self.body.stops]
        machine = TextStateMachine({"normal": stops} if stops else None)
        state = machine.make_state()
        count, finish_reason = 0, None
        while finish_reason is None:
            item = await self._tokens.get()
            if isinstance(item, Exception):
                raise item
            token, finish_reason = item
            count += 1
            if finish_reason != "stop":  # then it is the end token, which is not text
                detokenizer.add_token(token)
            if finish_reason is not None:
                detokenizer.finalize()
            state, text, now = TextStateMachine.step(state, detokenizer.last_segment)
            if now is None:
                self.cancel()
                yield Piece(text, count, "stop")
                return
            if finish_reason is not None:
                state, rest, _ = TextStateMachine.flush(state)
                text += rest
            if text or finish_reason is not None:
                yield Piece(text, count, finish_reason)

    def cancel(self) -> None:
        """Give its place in the batch to others."""

        def let_go() -> None:
            if self._uid is not None:
                self._model.cancel(self._name, self._uid)

        self._mlx.submit(let_go)


async def answer(request: web.Request, completion: Completion) -> web.StreamResponse:
    """Run a completion and tell it in OpenAI's form."""
    model = request.headers.get(MODEL_HEADER, request.match_info["name"])
    try:
        await completion.start()
        if completion.stream:
            return await _stream(request, completion, model)
        return await _at_once(completion, model)
    except asyncio.CancelledError:  # the client went away
        completion.cancel()
        raise
    except RequestError:
        raise
    except Exception as error:  # noqa: BLE001  whatever the model raised, the client is told
        body = msgspec.json.encode(_failure(error))
        return web.Response(status=500, body=body, content_type="application/json")


async def _at_once(completion: Completion, model: str) -> web.Response:
    text, last = "", Piece("", 0, "length")
    async for piece in completion.pieces():
        text, last = text + piece.text, piece
    kind = "chat.completion" if completion.chat else "text_completion"
    content: dict[str, Any] = {"text": text}
    if completion.chat:
        content = {"message": {"role": "assistant", "content": text}}
    choice = {"index": 0, "finish_reason": last.finish_reason, "logprobs": None} | content
    body = _head(completion, model, kind) | {
        "choices": [choice],
        "usage": _usage(completion, last.tokens),
    }
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _stream(request: web.Request, completion: Completion, model: str) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await reply.prepare(request)
    kind = "chat.completion.chunk" if completion.chat else "text_completion"
    head = _head(completion, model, kind)
    count = 0

    async def send(data: Any) -> None:
        await reply.write(b"data: " + msgspec.json.encode(data) + b"\n\n")

    if completion.chat:
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        await send(head | {"choices": [role]})
    try:
        async for piece in completion.pieces():
            count, text = piece.tokens, piece.text
            content: Any = {"delta": {"content": text}} if completion.chat else {"text": text}
            choice = {"index": 0, "finish_reason": piece.finish_reason, "logprobs": None} | content
            await send(head | {"choices": [choice]})
    except ConnectionResetError:
        completion.cancel()
        return reply
    except Exception as error:  # noqa: BLE001  headers are sent: the stream itself must tell
        await send(_failure(error))
        return reply
    options = completion.body.stream_options
    if options is not None and options.include_usage:
        await send(head | {"choices": [], "usage": _usage(completion, count)})
    await reply.write(b"data: [DONE]\n\n")
    return reply


def _failure(error: Exception) -> dict[str, Any]:
    words = f"{type(error).__name__}: {error}"
    return {"error": {"type": "server_error", "code": "generation_failed", "message": words}}


def _head(completion: Completion, model: str, kind: str) -> dict[str, Any]:
    return {"id": completion.id, "object": kind, "created": completion.created, "model": model}


def _usage(completion: Completion, tokens: int) -> dict[str, int]:
    total = completion.prompt_tokens + tokens
    return {
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": total,
    }
