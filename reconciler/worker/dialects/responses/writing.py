"""Write answers as responses: one JSON object, or server-sent events."""

import time
from typing import Any

import msgspec
from aiohttp import web

from reconciler.core import response_events
from reconciler.worker.answers import FAILED, Form, failure
from reconciler.worker.completions import Completion, Piece
from reconciler.worker.dialects.responses.output import Event, Output, Tokens
from reconciler.worker.keep_alive import Stream
from reconciler.worker.output import Delta

_CUT = {"reason": "max_output_tokens"}


class Response:
    """A response under construction, and the sequence number of its events."""

    def __init__(self, completion: Completion, model: str) -> None:
        """`completion` is started; `model` is the name that the client used."""
        self._completion = completion
        echo = completion.echo
        summarized = bool(echo["reasoning"]["summary"])
        self._output = Output(summarized=summarized, custom=echo["custom"])
        self._head = _head(completion, model)
        self._number = 0
        self._last = Piece(Delta(), 0)

    def begin(self) -> bytes:
        """Encode the first events."""
        kinds = ("response.created", "response.in_progress")
        return self._encoded([{"type": kind, "response": self._head} for kind in kinds])

    def alive(self) -> bytes:
        """Encode a keep-alive event.

        Codex counts only events: after 300 s of comments it retries.
        """
        return self._encoded([{"type": "response.in_progress", "response": self._head}])

    def feed(self, piece: Piece) -> bytes:
        """Encode the events for a piece of the answer."""
        return self._encoded(self.add(piece))

    def add(self, piece: Piece) -> list[Event]:
        """Add a piece of the answer; return its events."""
        self._last = piece
        content = bool(piece.delta.content)
        return self._output.feed(piece.delta, self._tokens(piece) if content else [])

    def end(self) -> bytes:
        """Encode the last events."""
        events = self.close()
        response = self.whole()
        last = {"type": f"response.{response['status']}", "response": response}
        return self._encoded([*events, last])

    def close(self) -> list[Event]:
        """End the last item; return its events."""
        return self._output.end(incomplete=self._cut)

    def whole(self) -> dict[str, Any]:
        """The complete response, valid after `close`."""
        status = "incomplete" if self._cut else "completed"
        return self._head | {
            "status": status,
            "completed_at": None if self._cut else int(time.time()),
            "incomplete_details": _CUT if self._cut else None,
            "output": self._output.items,
            "usage": self._usage(),
        }

    def failed(self, error: dict[str, str]) -> bytes:
        """Encode the events of a failure."""
        response = self._head | {"output": self._output.items, "usage": self._usage()}
        events = response_events.failure(error, FAILED, response, self._number)
        return b"".join(map(response_events.encoded, events))

    @property
    def _cut(self) -> bool:
        return self._last.finish_reason == "length"

    def _encoded(self, events: list[Event]) -> bytes:
        made = []
        for event in events:
            made.append(response_events.encoded(event | {"sequence_number": self._number}))
            self._number += 1
        return b"".join(made)

    def _usage(self) -> dict[str, Any]:
        completion, tokens = self._completion, self._last.tokens
        cached = {"cached_tokens": completion.cached_tokens, "cache_write_tokens": 0}
        return {
            "input_tokens": completion.prompt_tokens,
            "input_tokens_details": cached,
            "output_tokens": tokens,
            "output_tokens_details": {"reasoning_tokens": completion.reasoning_tokens},
            "total_tokens": completion.prompt_tokens + tokens,
        }

    def _tokens(self, piece: Piece) -> Tokens:
        def named(token: int, logprob: float) -> dict[str, Any]:
            text = str(self._completion.tokenizer.decode([token]))
            # The bytes of a partial character are unknown.
            known = b"" if "\ufffd" in text else text.encode()
            return {"token": text, "logprob": logprob, "bytes": list(known)}

        return [
            named(one.token, one.logprob) | {"top_logprobs": [named(*a) for a in one.alternatives]}
            for one in piece.likelihoods
        ]


def _head(completion: Completion, model: str) -> dict[str, Any]:
    """The response object without output."""
    echo, body = completion.echo, completion.body
    identity = f"resp_{completion.id.rpartition('-')[2]}"
    head = response_events.begun(identity, completion.created, model) | {
        "instructions": echo["instructions"],
        "max_output_tokens": body.limit,
        "metadata": echo["metadata"],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "prompt_cache_key": echo.get("prompt_cache_key"),
        "reasoning": echo["reasoning"],
        "safety_identifier": echo.get("safety_identifier"),
        "service_tier": "default",
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": msgspec.Raw(echo["format"]), "verbosity": "medium"},
        "tool_choice": msgspec.Raw(echo["tool_choice"]),
        "tools": msgspec.Raw(echo["tools"]),
        "top_logprobs": body.alternatives or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "user": echo.get("user"),
    }
    return head | {"warnings": completion.warnings} if completion.warnings else head


async def _at_once(completion: Completion, model: str) -> web.Response:
    response = Response(completion, model)
    async for piece in completion.pieces():
        response.add(piece)
    response.close()
    body = msgspec.json.encode(response.whole())
    return web.Response(body=body, content_type="application/json")


async def _stream(reply: Stream, completion: Completion, model: str) -> None:
    response = Response(completion, model)
    await reply.write(response.begin())
    reply.make_signs(response.alive)
    try:
        async for piece in completion.pieces():
            if piece.read is None and (events := response.feed(piece)):
                await reply.write(events)
        await reply.write(response.end())
    except ConnectionResetError:
        raise
    except Exception as error:  # noqa: BLE001  headers are sent, so the stream reports the error
        await reply.write(response.failed(failure(error)))


def _broken_off(error: dict[str, str]) -> bytes:
    response = response_events.begun("resp_0", 0, "")
    events = response_events.failure(error, FAILED, response, 0)
    return b"".join(map(response_events.encoded, events))


async def _count(completion: Completion, _model: str) -> web.Response:
    body = {"object": "response.input_tokens", "input_tokens": completion.prompt_tokens}
    body |= {"warnings": completion.warnings} if completion.warnings else {}
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


FORM = Form(_at_once, _stream, _broken_off)
COUNT_FORM = Form(_count, _stream, _broken_off, generates=False)
