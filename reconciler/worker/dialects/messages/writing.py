"""Write completions in the form of Anthropic's Messages API: one JSON object, or a stream of
events.

An answer is a list of blocks: reasoning, text and tool calls in the order in which the model writes
them. `Blocks` makes the events of a stream; the JSON object is assembled from the same events.
Source of the forms: the types of the `anthropic` package.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from aiohttp import web

from reconciler.core.dialects import anthropic_error
from reconciler.worker.answers import Form
from reconciler.worker.completions import Completion, Piece
from reconciler.worker.dialects.messages import signatures
from reconciler.worker.keep_alive import Signs, Stream
from reconciler.worker.output import Delta

Event = dict[str, Any]

SIGNS = Signs("text/event-stream", b'event: ping\ndata: {"type": "ping"}\n\n')


class Blocks:
    """Makes the events for the blocks of one answer."""

    def __init__(self, *, omits_thinking: bool = False) -> None:
        """If `omits_thinking`, reasoning blocks have no text."""
        self._omits_thinking = omits_thinking
        self._index = -1
        self._open = ""
        """Type of the open block."""
        self._thoughts: list[str] = []

    def add(self, delta: Delta) -> Iterator[Event]:
        """Events for newly generated text, reasoning and calls."""
        if delta.reasoning:
            yield from self._enter("thinking", {"thinking": "", "signature": ""})
            self._thoughts.append(delta.reasoning)
            if not self._omits_thinking:
                yield self._delta("thinking_delta", thinking=delta.reasoning)
        text = delta.content
        if self._open != "text" and self._index >= 0:
            text = text.lstrip("\n")  # separates the text from a previous block
        if text:
            yield from self._enter("text", {"text": ""})
            yield self._delta("text_delta", text=text)
        for call in delta.calls:
            yield from self.close()
            function = call["function"]
            block = {"id": call["id"], "name": function["name"], "input": {}}
            yield from self._enter("tool_use", block)
            yield self._delta("input_json_delta", partial_json=_object(function["arguments"]))
            yield from self.close()

    def close(self) -> Iterator[Event]:
        """End the open block."""
        if not self._open:
            return
        if self._open == "thinking":
            text = "".join(self._thoughts)
            self._thoughts.clear()
            signature = signatures.of_text(text, omitted=self._omits_thinking)
            yield self._delta("signature_delta", signature=signature)
        yield {"type": "content_block_stop", "index": self._index}
        self._open = ""

    def _enter(self, kind: str, block: dict[str, Any]) -> Iterator[Event]:
        if self._open == kind:
            return
        yield from self.close()
        self._open = kind
        self._index += 1
        yield {
            "type": "content_block_start",
            "index": self._index,
            "content_block": {"type": kind} | block,
        }

    def _delta(self, kind: str, **added: str) -> Event:
        delta = {"type": kind} | added
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def _object(arguments: str) -> str:
    """Wrap arguments that are not a JSON object, which Anthropic's clients require."""
    return arguments if arguments.startswith("{") else f'{{"arguments": {arguments}}}'


class _Content:
    """Assembles the blocks of an answer from their events."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, Any]] = []
        self._pieces: dict[str, list[str]] = {}
        """Deltas of the open block, by key."""

    def add(self, event: Event) -> None:
        if event["type"] == "content_block_start":
            self.blocks.append(dict(event["content_block"]))
            self._pieces = {}
        elif event["type"] == "content_block_delta":
            for key, piece in event["delta"].items():
                if key != "type":
                    self._pieces.setdefault(key, []).append(piece)
        else:
            self.blocks[-1] |= {key: "".join(pieces) for key, pieces in self._pieces.items()}
            if "partial_json" in self.blocks[-1]:
                arguments = self.blocks[-1].pop("partial_json")
                self.blocks[-1]["input"] = msgspec.Raw(arguments.encode())


async def _at_once(completion: Completion, model: str) -> web.Response:
    content, blocks, last = _Content(), _blocks(completion), Piece(Delta(), 0)
    async for last in completion.pieces():
        for event in blocks.add(last.delta):
            content.add(event)
    for event in blocks.close():
        content.add(event)
    body = _message(completion, model) | {
        "content": [] if _warms(completion) else content.blocks,
        **_stop(completion, last),
        "usage": _usage(completion, last.tokens),
    }
    return _json(body)


async def _stream(reply: Stream, completion: Completion, model: str) -> None:
    async def send(event: Event) -> None:
        kind = event["type"].encode()
        await reply.write(b"event: " + kind + b"\ndata: " + msgspec.json.encode(event) + b"\n\n")

    begin = _message(completion, model) | {"usage": _usage(completion, 0)}
    await send({"type": "message_start", "message": begin})
    await send({"type": "ping"})
    blocks, last = _blocks(completion), Piece(Delta(), 0)
    async for last in completion.pieces():
        if not _warms(completion):
            for event in blocks.add(last.delta):
                await send(event)
    for event in blocks.close():
        await send(event)
    usage = _usage(completion, last.tokens)
    await send({"type": "message_delta", "delta": _stop(completion, last), "usage": usage})
    await send({"type": "message_stop"})


async def _count(completion: Completion, _model: str) -> web.Response:
    warnings = {"warnings": completion.warnings} if completion.warnings else {}
    return _json({"input_tokens": completion.prompt_tokens} | warnings)


def _json(body: dict[str, Any]) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


def _blocks(completion: Completion) -> Blocks:
    return Blocks(omits_thinking=bool(completion.echo.get("omits_thinking")))


def _warms(completion: Completion) -> bool:
    """True if no tokens were requested: the prompt is only read, and its KV cache kept."""
    return completion.echo.get("max_tokens") == 0


def _message(completion: Completion, model: str) -> dict[str, Any]:
    """The message at its start."""
    message: dict[str, Any] = {
        "id": f"msg_{completion.id.rpartition('-')[2]}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    return message | ({"warnings": completion.warnings} if completion.warnings else {})


def _stop(completion: Completion, last: Piece) -> dict[str, Any]:
    """Stop reason and matched stop sequence."""
    reason, found = "end_turn", None
    if _warms(completion):
        reason = "max_tokens"
    elif last.finish_reason == "tool_calls":
        reason = "tool_use"
    elif last.delta.stop:
        reason, found = "stop_sequence", last.delta.stop
    elif last.finish_reason == "length":
        asked = completion.echo.get("max_tokens") or 0
        reason = "max_tokens" if last.tokens >= asked else "model_context_window_exceeded"
    return {"stop_reason": reason, "stop_sequence": found}


def _usage(completion: Completion, tokens: int) -> dict[str, Any]:
    """Token counts; prompt tokens found in the prompt cache are counted separately."""
    cached = completion.cached_tokens
    return {
        "input_tokens": completion.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": 0 if _warms(completion) else tokens,
        "output_tokens_details": {"thinking_tokens": completion.reasoning_tokens},
    }


def _broken_off(error: dict[str, str]) -> bytes:
    return b"event: error\ndata: " + msgspec.json.encode(anthropic_error(error, 500)) + b"\n\n"


FORM = Form(_at_once, _stream, _broken_off, anthropic_error, SIGNS)
COUNT_FORM = Form(_count, _stream, _broken_off, anthropic_error, SIGNS, generates=False)
