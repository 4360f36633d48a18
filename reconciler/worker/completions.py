"""One completion: checked, put into its session's batch, and told as it comes."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.dialects import Dialect
from reconciler.core.protocol import NO_CONTEXT, NO_LEASE, Lease, RequestContext
from reconciler.worker import sampling
from reconciler.worker.constraints.asked import Constraint
from reconciler.worker.constraints.enforcer import reading_form
from reconciler.worker.constraints.mask import Mask
from reconciler.worker.dialects.naming import renamed, reworded
from reconciler.worker.likelihood import Likelihood
from reconciler.worker.likelihood import likelihood as measure
from reconciler.worker.model import Model
from reconciler.worker.output import Delta, OutputFormat, OutputParser, described
from reconciler.worker.prompt import Prompt, too_long
from reconciler.worker.request import Body, RequestError, UnavailableError
from reconciler.worker.session import (
    InsufficientMemoryError,
    OverloadedError,
    Request,
    Session,
)
from reconciler.worker.thread import MlxThread
from reconciler.worker.timing import Timing


@dataclass
class Piece:
    """What is certain since the last piece, and the end."""

    delta: Delta
    tokens: int
    """Generated until now."""
    finish_reason: str | None = None
    likelihoods: list[Likelihood] = field(default_factory=list)
    read: int | None = None
    """Tokens of the prompt that were read until now, while it is being read."""


TOGETHER = 16
"""Tokens that are told at a time where nobody reads them as they come: telling takes time from the
thread that computes. A stop is noticed as much later, and what came after it dropped."""


class UnenforceableError(RuntimeError):
    """An answer cannot go on as its grammar wants it."""


Item = tuple[int, str | None, Likelihood | None]


@dataclass(frozen=True)
class PromptRead:
    """Tokens of the prompt that were read until now."""

    tokens: int


class Completion:
    """One completion of one request."""

    def __init__(
        self,
        model: Model,
        mlx: MlxThread,
        name: str,
        data: bytes,
        *,
        dialect: Dialect = Dialect.CHAT,
        lease: Lease = NO_LEASE,
        context: RequestContext = NO_CONTEXT,
    ) -> None:
        """`data` is the request's body; `lease` is the session's, as of the request."""
        self._model, self._mlx, self._name, self._lease = model, mlx, name, lease
        self._data, self._dialect = data, dialect
        self.context = context
        self.timing = Timing(context.waited_seconds)
        self.chat = not dialect.is_text
        """True if the prompt is made by the chat template; certain once it is started."""
        self.echo: dict[str, Any] = {}
        """What a dialect keeps of the request for the answer."""
        self.body = Body()
        """The request, once it is started."""
        self.stream = False
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.warnings: list[str] = []
        """What of the request has no effect."""
        self._items: asyncio.Queue[list[Item] | PromptRead | Exception] = asyncio.Queue()
        self._request = Request([], None, lambda *_: None, lambda _: None)
        self._mask: Mask | None = None
        """What keeps the answer to its grammar, if it has one."""
        self.stopped = False
        """True if a stop text ended it, or the first call where one was allowed."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt."""
        return self._prompt_tokens

    @property
    def context_length(self) -> int | None:
        """The session's, in tokens; None: it is gone."""
        return self._most()

    @property
    def reasoning_tokens(self) -> int:
        """Of the completion, those that were reasoning."""
        return self._parser.reasoning_tokens

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, found in the KV cache of an earlier request."""
        return self._request.cached_tokens or 0

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._model.tokenizer

    async def prepare(self) -> Prompt:
        """Check it and make its prompt. Raises `RequestError`."""
        defaults: Mapping[str, Any] = self._model.defaults(self._name)
        try:
            # No name for the future: what it raises would hold it, and the body, in a cycle.
            body, prompt = await asyncio.wrap_future(
                self._model.preprocessor.submit(
                    self._data, defaults, self._most(), dialect=self._dialect
                )
            )
        finally:
            self._data = b""  # an answer may take an hour
        self.body, self.stream = body, bool(body.stream)
        self.chat, self.echo = body.chat, body.echo
        self._request.max_tokens = body.limit
        self.warnings += [*body.warnings, *prompt.warnings]
        self._prompt_tokens = len(prompt.tokens)
        return prompt

    async def start(self) -> None:
        """Prepare it and put it into the session's batch. Raises `RequestError`."""
        prompt = await self.prepare()
        body = self.body
        form = self._model.output_format if self.chat else OutputFormat()
        form = described(form) if prompt.described else form
        try:
            await self._put_in_batch(body, prompt, form)
        except RequestError as error:
            raise renamed(error, body.names) from None

    async def _put_in_batch(self, body: Body, prompt: Prompt, form: OutputFormat) -> None:
        """Put it into the session's batch. Raises `RequestError`."""
        if body.constraint is not None:
            form = await asyncio.to_thread(self._constrain, body.constraint, form, prompt)
        self._parser = OutputParser(
            self.tokenizer,
            form,
            generation=prompt.generation,
            stops=body.stops,
            tools=prompt.tools,
            chat=self.chat,
        )
        loop = asyncio.get_running_loop()

        heard: list[Item] = []

        def put(items: list[Item] | PromptRead | Exception) -> None:
            loop.call_soon_threadsafe(self._items.put_nowait, items)

        def tell(token: int, end: str | None, logprobs: Any) -> None:
            self.timing.note_token()
            if self._mask is not None and self._mask.error:
                raise UnenforceableError(self._mask.error)
            number = body.alternatives
            likelihood = None if number is None else measure(token, logprobs, number)
            heard.append((token, end, likelihood))
            if self.stream or end is not None or len(heard) == TOGETHER:
                put(heard.copy())
                heard.clear()

        request = self._request
        request.prompt, request.tell, request.fail = prompt.tokens, tell, put
        request.boundaries = prompt.boundaries
        options = body.stream_options
        told = self.stream and options is not None and bool(options.include_progress)

        def read(tokens: int) -> None:
            self.timing.note_read()
            if told:
                put(PromptRead(tokens))

        request.read = read
        self.timing.start()
        await asyncio.wrap_future(self._mlx.submit(self._begin))

    def _constrain(
        self, constraint: Constraint, form: OutputFormat, prompt: Prompt
    ) -> OutputFormat:
        """Take up the grammar of the answer; how what it allows is read. Raises `RequestError`.

        Not for a thread that others wait for.
        """
        enforced, matcher = self._model.enforcer.enforce(constraint, form, prompt.generation)
        if enforced.warning:
            self.warnings.append(reworded(enforced.warning, self.body.names))
        if matcher is not None:
            self._mask = Mask(matcher, len(prompt.tokens), self._model.vocabulary)
        return reading_form(enforced, form)

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
            most = session.config.context_length
            raise too_long(len(request.prompt), most, "messages" if self.chat else "prompt")
        if request.max_tokens is not None:
            request.max_tokens = min(request.max_tokens, room)
        self._set_sampling(session)
        session.kv_budget.take(self._lease)
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
        free = self._mask is None
        if (body.ignore_eos and free) or body.stop_token_ids:
            own = () if body.ignore_eos and free else session.ends
            request.ends = (*own, *(body.stop_token_ids or ()))
        if body.min_tokens and free:
            ends = session.ends if request.ends is None else request.ends
            known = [token for token in ends if token < vocabulary]
            prompt = len(request.prompt)
            processors.append(sampling.without_ends(known, prompt, body.min_tokens))
        special: list[int] = []
        if body.xtc_probability:
            special = [*self.tokenizer.encode("\n", add_special_tokens=False), *session.ends]
        if self._mask is not None:
            processors.append(self._mask)  # last: no bias may allow what it forbids
        request.processors = processors
        request.sampler = sampling.sampler(
            body, vocabulary, [token for token in special if token < vocabulary]
        )

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is said, as it comes; the last piece has the reason of the end.

        Raises what the model raised.
        """
        count, likelihoods = 0, []
        async for item in self._heard():
            if isinstance(item, PromptRead):
                # A request that had to make room reads its own answer again, too.
                yield Piece(Delta(), count, read=min(item.tokens, self._prompt_tokens))
                continue
            token, end, likelihood = item
            count += 1
            if likelihood is not None and end != "stop":
                likelihoods.append(likelihood)
            delta = self._parser.feed(token, end)
            if delta.calls and self.body.parallel_tool_calls is False:
                delta.calls, delta.stopped = delta.calls[:1], True
            if delta.stopped:
                if end is None:
                    self.cancel()
                end = "stop"
                self.stopped = True
            if end == "stop" and self._parser.called:
                end = "tool_calls"
            if delta or end is not None:
                yield Piece(delta, count, end, likelihoods)
                likelihoods = []
            if end is not None:
                return

    async def _heard(self) -> AsyncIterator[Item | PromptRead]:
        """The tokens, one by one, after what was read. Raises what the model raised."""
        while True:
            items = await self._items.get()
            if isinstance(items, Exception):
                raise items
            if isinstance(items, PromptRead):
                yield items
                continue
            for item in items:
                yield item

    def cancel(self) -> None:
        """Give its place in the batch to others."""
        self._mlx.submit(lambda: self._model.cancel(self._name, self._request))
