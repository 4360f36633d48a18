"""The client of all measurements: streamed chats, with the time of each piece of text."""

import contextlib
import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import aiohttp

Messages = str | list[dict[str, str]]
"""Messages of a chat, or the text of its only one."""


class FailedError(Exception):
    """A request that was not answered as asked; the message says what came instead."""


@dataclass
class Answer:
    """Times of an answer, of `time.perf_counter`."""

    sent: float
    times: list[float] = field(default_factory=list)
    """When each piece of text arrived."""
    tokens: int = 0

    @property
    def first(self) -> float:
        """Seconds from the request to the first text."""
        return self.times[0] - self.sent

    def gaps(self) -> list[float]:
        """Seconds between pieces of text."""
        return [b - a for a, b in pairwise(self.times)]

    def longest_gap(self, begin: float, end: float) -> float:
        """Longest of the gaps that overlap a span of time."""
        return max((b - a for a, b in pairwise(self.times) if b > begin and a < end), default=0.0)


class Chat:
    """Greedy chats with one model of a server."""

    def __init__(self, url: str, model: str, **more: Any) -> None:
        """`more`: further parameters of each request."""
        self._url, self._model, self._more = f"{url}/v1/chat/completions", model, more
        limits = aiohttp.ClientTimeout(total=None)  # the caller's deadline applies
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(timeout=limits, connector=connector)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def ask(self, messages: Messages, tokens: int) -> Answer:
        """A complete answer of at most `tokens` tokens; raises FailedError."""
        async with contextlib.aclosing(self.pieces(messages, tokens)) as pieces:
            last = Answer(time.perf_counter())
            async for answer in pieces:
                last = answer
        if not last.tokens:
            raise FailedError(f"a stream of {len(last.times)} pieces of text without its usage")
        if not last.times:  # a token that is part of a character
            last.times.append(time.perf_counter())
        return last

    async def pieces(self, messages: Messages, tokens: int) -> AsyncGenerator[Answer, None]:
        """An answer so far, at each event; raises FailedError for a refusal or a reported error."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        body = {
            "model": self._model,
            "messages": messages,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        } | self._more
        answer = Answer(time.perf_counter())
        async with self._session.post(self._url, json=body) as reply:
            if reply.status != 200:
                raise FailedError(f"{reply.status}: {(await reply.text())[:200]}")
            async for line in reply.content:
                if line.startswith(b"data: {"):
                    _hear(line[len(b"data: ") :], answer)
                    yield answer


def _hear(line: bytes, answer: Answer) -> None:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        raise FailedError(f"an event that is not JSON: {line[:100]!r}") from None
    if "error" in event:
        raise FailedError(str(event["error"])[:200])
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        if any(delta.get(key) for key in ("content", "reasoning_content", "reasoning")):
            answer.times.append(time.perf_counter())
    answer.tokens = (event.get("usage") or {}).get("completion_tokens", answer.tokens)
