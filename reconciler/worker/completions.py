"""One completion: checked, put into its session's batch, and told as it comes."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from reconciler.worker import sampling
from reconciler.worker.model import Model
from reconciler.worker.request import Body, RequestError, UnavailableError
from reconciler.worker.session import (
    InsufficientMemoryError,
    OverloadedError,
    Request,
    Session,
)
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
        self.warnings: list[str] = list(body.warnings)
        """What of the request has no effect."""
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
        body = self.body
        build = partial(self._model.prompts.build, body, self._most(), chat=self.chat)
        prompt = await asyncio.to_thread(build)  # a long one takes seconds
        self.warnings += prompt.warnings
        self._prompt_tokens = len(prompt.tokens)
        tools = list(prompt.tools)
        self._transcript = Transcript(
            self.tokenizer, prompt.tokens, body.stops, tools, chat=self.chat
        )
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

        request = self._request
        request.prompt, request.tell, request.fail = prompt.tokens, tell, put
        request.boundaries = prompt.boundaries
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
        self._set_sampling(session)
        session.kv_budget.lend(self._spare)
        try:
            session.start(request)
        except OverloadedError as error:
            raise UnavailableError(str(error), "overloaded") from None
        except InsufficientMemoryError as error:
            raise UnavailableError(str(error), "insufficient_memory") from None

    def _most(self) -> int | None:
        """The context length of the session, if it is still there."""
        try:
            return int(self._model.session(self._name).config.context_length)
        except KeyError:
            return None

    def _set_sampling(self, session: Session) -> None:
        """What chooses the tokens, and what ends the answer. Raises `RequestError`."""
        body, request, vocabulary = self.body, self._request, self._model.vocabulary
        try:
            processors = sampling.processors(body, vocabulary)
        except ValueError as error:
            raise RequestError(str(error), "invalid_value", "logit_bias") from None
        if body.ignore_eos or body.stop_token_ids:
            own = () if body.ignore_eos else session.ends
            request.ends = (*own, *(body.stop_token_ids or ()))
        if body.min_tokens:
            ends = session.ends if request.ends is None else request.ends
            known = [token for token in ends if token < vocabulary]
            prompt = len(request.prompt)
            processors.append(sampling.without_ends(known, prompt, body.min_tokens))
        special: list[int] = []
        if body.xtc_probability:
            special = [*self.tokenizer.encode("\n", add_special_tokens=False), *session.ends]
        request.processors = processors
        request.sampler = sampling.sampler(
            body, vocabulary, [token for token in special if token < vocabulary]
        )

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
