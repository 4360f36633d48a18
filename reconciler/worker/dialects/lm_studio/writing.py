"""Write answers of LM Studio's `/api/v1/chat`: a list of outputs with statistics, or named events.

Source of fields and events: LM Studio's documentation, "Chat with a model" and "Streaming events".
If a model was loaded for the request, `model_load.start` and `.end` are both sent after the load.
"""

from typing import Any

import msgspec
from aiohttp import web

from reconciler.worker.answers import Form, failure
from reconciler.worker.completions import Completion, Piece
from reconciler.worker.dialects.lm_studio.v0 import tokens_per_second
from reconciler.worker.keep_alive import Stream
from reconciler.worker.output import Delta


class _Outputs:
    """The outputs so far, in order: reasoning and messages."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, list[str]]] = []
        self.tokens = 0

    @property
    def kind(self) -> str | None:
        """Kind of the last output."""
        return self._parts[-1][0] if self._parts else None

    @property
    def items(self) -> list[dict[str, str]]:
        """The outputs in the response's form."""
        return [{"type": kind, "content": "".join(texts)} for kind, texts in self._parts]

    def add(self, kind: str, text: str) -> bool:
        """Append text to the output; true if it begins a new output."""
        begins = self.kind != kind
        if begins:
            self._parts.append((kind, []))
        self._parts[-1][1].append(text)
        return begins


def _parts(delta: Delta) -> list[tuple[str, str]]:
    parts = [("reasoning", delta.reasoning), ("message", delta.content)]
    return [(kind, text) for kind, text in parts if text]


async def _at_once(completion: Completion, model: str) -> web.Response:
    outputs, last = _Outputs(), Piece(Delta(), 0)
    async for last in completion.pieces():
        for kind, text in _parts(last.delta):
            outputs.add(kind, text)
    outputs.tokens = last.tokens
    body = _result(completion, model, outputs)
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def _stream(reply: Stream, completion: Completion, model: str) -> None:
    outputs = _Outputs()

    async def send(kind: str, **data: Any) -> None:
        await reply.write(_event(kind, data))

    await send("chat.start", model_instance_id=model)
    if completion.context.loaded:
        await send("model_load.start", model_instance_id=model)
        seconds = completion.timing.waited
        await send("model_load.end", model_instance_id=model, load_time_seconds=seconds)
    try:
        await _send_events(send, completion, outputs)
    except ConnectionResetError:
        raise
    except Exception as error:  # noqa: BLE001  chat.end must follow, with the outputs so far
        await send("error", error=failure(error))
    await send("chat.end", result=_result(completion, model, outputs))


async def _send_events(send: Any, completion: Completion, outputs: _Outputs) -> None:
    """Send the events between the load and the end of the chat."""
    await send("prompt_processing.start")
    read = False
    async for piece in completion.pieces():
        if piece.read is not None:
            if read:  # a preempted request reads its prompt again
                continue
            progress = piece.read / max(1, completion.prompt_tokens)
            await send("prompt_processing.progress", progress=progress)
            continue
        if not read:
            read = True
            await send("prompt_processing.end")
        outputs.tokens = piece.tokens
        for kind, text in _parts(piece.delta):
            before = outputs.kind
            if outputs.add(kind, text):
                if before is not None:
                    await send(f"{before}.end")
                await send(f"{kind}.start")
            await send(f"{kind}.delta", content=text)
    if outputs.kind is not None:
        await send(f"{outputs.kind}.end")


def _result(completion: Completion, model: str, outputs: _Outputs) -> dict[str, Any]:
    timing = completion.timing
    stats = {
        "input_tokens": completion.prompt_tokens,
        "total_output_tokens": outputs.tokens,
        "reasoning_output_tokens": completion.reasoning_tokens,
        "tokens_per_second": tokens_per_second(outputs.tokens, timing.generation),
        "time_to_first_token_seconds": timing.first_token,
    }
    if completion.context.loaded:
        stats["model_load_time_seconds"] = timing.waited
    result = {"model_instance_id": model, "output": outputs.items, "stats": stats}
    warnings = _warnings(completion)
    return result | {"warnings": warnings} if warnings else result


def _warnings(completion: Completion) -> list[str]:
    asked, given = completion.echo.get("context_length"), completion.context_length
    if asked is None or asked == given:
        return completion.warnings
    words = f"context_length: has no effect; this instance has {given}"
    return [words, *completion.warnings]


def _event(kind: str, data: dict[str, Any]) -> bytes:
    encoded = msgspec.json.encode({"type": kind, **data})
    return b"event: " + kind.encode() + b"\ndata: " + encoded + b"\n\n"


def _broken_off(error: dict[str, str]) -> bytes:
    return _event("error", {"error": error})


FORM = Form(_at_once, _stream, _broken_off)
