"""One completion: checked, put into its session's batch, and told as it comes."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from reconciler.worker import request as requests
from reconciler.worker import sampling
from reconciler.worker.model import Model
from reconciler.worker.request import Body, RequestError, UnavailableError
from reconciler.worker.session import InsufficientMemoryError, OverloadedError, Request
from reconciler.worker.thread import MlxThread
from reconciler.worker.transcript import Said, Transcript


@dataclass(frozen=True)
class Likelihood:
    """The log-probability of a chosen token, and of the likeliest in its place."""

    token: int
    logprob: float
    alternatives: tuple[tuple[int, float], ...]


@dataclass
class Piece:
    """What is certain since the last piece, and the end."""

    said: Said
    tokens: int
    """Generated until now."""
    finish_reason: str | None = None
    likelihoods: list[Likelihood] = field(default_factory=list)


TOGETHER = 16
"""Tokens that are told at a time where nobody reads them as they come: telling takes time from the
thread that computes. A stop is noticed as much later, and what came after it dropped."""

Item = tuple[int, str | None, Likelihood | None]


class Completion:
    """One completion of one request."""

    def __init__(
        self, model: Model, mlx: MlxThread, name: str, body: Body, *, chat: bool, spare: int = 0
    ) -> None:
        """`spare` is the memory, in bytes, that is held for nobody now."""
        self._model, self._mlx, self._name, self._spare = model, mlx, name, spare
        self.body, self.chat = body, chat
        self.stream = bool(body.stream)
        self.id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self._items: asyncio.Queue[list[Item] | Exception] = asyncio.Queue()
        self._request = Request([], body.limit, lambda *_: None, lambda _: None)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self._prompt_tokens

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, found in the KV cache of an earlier request."""
        return self._request.cached_tokens or 0

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._model.tokenizer

    async def start(self) -> None:
        """Check it and put it into the session's batch. Raises `RequestError`."""
        body, vocabulary = self.body, self._model.vocabulary
        prompt = requests.tokens(body, self.tokenizer, vocabulary, chat=self.chat)
        self._prompt_tokens = len(prompt)
        tools = requests.tools_as_sent(body)
        self._transcript = Transcript(self.tokenizer, prompt, body.stops, tools, chat=self.chat)
        loop = asyncio.get_running_loop()

        heard: list[Item] = []

        def put(items: list[Item] | Exception) -> None:
            loop.call_soon_threadsafe(self._items.put_nowait, items)

        def tell(token: int, end: str | None, logprobs: Any) -> None:
            number = body.alternatives
            likelihood = None if number is None else _likelihood(token, logprobs, number)
            heard.append((token, end, likelihood))
            if self.stream or end is not None or len(heard) == TOGETHER:
                put(heard.copy())
                heard.clear()

        self._request.prompt, self._request.tell, self._request.fail = prompt, tell, put
        await asyncio.wrap_future(self._mlx.submit(self._begin))

    def _begin(self) -> None:
        """On the MLX thread. Raises `RequestError`."""
        request = self._request
        try:
            session = self._model.session(self._name)
        except KeyError:  # it went between being chosen and being asked
            message = "the instance has just been unloaded; ask again"
            raise UnavailableError(message, "model_unloaded") from None
        room = session.config.context_length - len(request.prompt)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(request.prompt)} tokens; the context length of this "
                f"instance is {session.config.context_length}, of which at least 1 is the "
                "completion's",
                "context_length_exceeded",
                "messages" if self.chat else "prompt",
            )
        if request.max_tokens is not None:
            request.max_tokens = min(request.max_tokens, room)
        try:
            request.processors = sampling.processors(self.body, self._model.vocabulary)
        except ValueError as error:
            raise RequestError(str(error), "invalid_value", "logit_bias") from None
        request.sampler = sampling.sampler(self.body)
        session.kv_budget.lend(self._spare)
        try:
            session.start(request)
        except OverloadedError as error:
            raise UnavailableError(str(error), "overloaded") from None
        except InsufficientMemoryError as error:
            raise UnavailableError(str(error), "insufficient_memory") from None

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is said, as it comes; the last piece has the reason of the end.

        Raises what the model raised.
        """
        count, likelihoods = 0, []
        async for token, ended, likelihood in self._heard():
            end = ended
            count += 1
            if likelihood is not None and end != "stop":
                likelihoods.append(likelihood)
            said = self._transcript.hear(token, end)
            if said.calls and self.body.parallel_tool_calls is False:
                said.calls, said.stopped = said.calls[:1], True
            if said.stopped and end is None:
                self.cancel()
                end = "stop"
            if end == "stop" and self._transcript.called:
                end = "tool_calls"
            if said or end is not None:
                yield Piece(said, count, end, likelihoods)
                likelihoods = []
            if end is not None:
                return

    async def _heard(self) -> AsyncIterator[Item]:
        """The tokens, one by one. Raises what the model raised."""
        while True:
            items = await self._items.get()
            if isinstance(items, Exception):
                raise items
            for item in items:
                yield item

    def cancel(self) -> None:
        """Give its place in the batch to others."""
        self._mlx.submit(lambda: self._model.cancel(self._name, self._request))


def _likelihood(token: int, logprobs: Any, number: int) -> Likelihood:
    """Of a token and of the `number` likeliest; logprobs: (vocabulary,). On the MLX thread."""
    values = logprobs.tolist()
    best = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:number]
    return Likelihood(token, values[token], tuple((i, values[i]) for i in best))
