"""A completion: validates a request, adds it to its session's batch, and yields its output."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.dialects import Dialect
from reconciler.core.protocol import NO_CONTEXT, NO_LEASE, Lease, RequestContext
from reconciler.worker import mailbox
from reconciler.worker.admission import admitting, session_of
from reconciler.worker.choices import Choice, choices, prepare, repeats
from reconciler.worker.constraints.asked import Constraint
from reconciler.worker.constraints.enforcer import reading_form
from reconciler.worker.constraints.mask import Mask
from reconciler.worker.dialects.naming import renamed, reworded
from reconciler.worker.likelihood import Likelihood
from reconciler.worker.likelihood import likelihood as measure
from reconciler.worker.model import Model
from reconciler.worker.output import Delta, OutputFormat, OutputParser, described
from reconciler.worker.pending import Score
from reconciler.worker.prompt import Prompt, too_long
from reconciler.worker.reasoning_budget import ReasoningBudget, closing_mark, reasons
from reconciler.worker.request import Body, RequestError
from reconciler.worker.thread import MlxThread
from reconciler.worker.timing import Timing


@dataclass
class Piece:
    """Output of one choice since its last piece, with the finish reason if it has ended."""

    delta: Delta
    tokens: int
    """Tokens generated so far for all choices."""
    finish_reason: str | None = None
    likelihoods: list[Likelihood] = field(default_factory=list)
    read: int | None = None
    """Prompt tokens prefilled so far; None after prefill."""
    index: int = 0
    """Index of the choice that it belongs to; 0 if only one was requested."""


TOGETHER = 16
"""Tokens per message from the MLX thread if the response is not streamed: each message takes time
of that thread. A stop is detected up to so many tokens later; the tokens after it are dropped."""


class UnenforceableError(RuntimeError):
    """The grammar of a choice cannot be enforced any further."""


Item = tuple[int, str | None, Likelihood | None]


_NOTHING: Item = (-1, "length", None)
"""The end of a choice without tokens."""


@dataclass(frozen=True)
class PromptRead:
    """Prefill progress of a prompt [tokens]."""

    tokens: int


@dataclass(frozen=True)
class PromptScored:
    """Likelihoods of all tokens of a prompt but the first."""

    likelihoods: list[Likelihood]


News = list[Item] | PromptRead | PromptScored | Exception


class Completion:
    """One request and its choices."""

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
        """`data`: body of the request; `lease`: the session's lease when the request was sent."""
        self._model, self._mlx, self._name, self._lease = model, mlx, name, lease
        self._data, self._dialect = data, dialect
        self.context = context
        self.timing = Timing(context.waited_seconds)
        self.chat = not dialect.is_text
        """True if the chat template makes the prompt; final once the completion is started."""
        self.echo: dict[str, Any] = {}
        """Request fields that the dialect needs for the response."""
        self.body = Body()
        """The parsed request, once the completion is started."""
        self.stream = False
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.warnings: list[str] = []
        """Messages about keys of the request that have no effect."""
        self._news: asyncio.Queue[tuple[Choice, News]] = asyncio.Queue()
        self._choices: list[Choice] = []
        self._prompt = Prompt([])

    @property
    def answers(self) -> int:
        """Number of choices: prompts times `n`."""
        return sum(len(choice.indices) for choice in self._choices)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(tokens) for tokens in self._prompt.all_tokens)

    @property
    def context_length(self) -> int | None:
        """Context length of the session [tokens]; None if the session is closed."""
        return self._most()

    @property
    def reasoning_tokens(self) -> int:
        """Completion tokens that were reasoning."""
        return sum(c.parser.reasoning_tokens * len(c.indices) for c in self._choices)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens found in the KV cache of an earlier request."""
        leaders = (c.request for c in self._choices if c.request.follows is None)
        return sum(request.cached_tokens or 0 for request in leaders)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._model.tokenizer

    def prompt_of(self, index: int) -> tuple[str, list[int], list[Likelihood]]:
        """Text and tokens of the prompt that a choice echoes, and, if they were requested, the
        likelihoods of all its tokens but the first.
        """
        choice = next(c for c in self._choices if index in c.indices)
        leader = next(c for c in self._choices if c.prompt == choice.prompt)
        tokens = self._prompt.all_tokens[choice.prompt]
        return self._prompt.texts[choice.prompt], tokens, leader.prompt_likelihoods

    async def prepare(self) -> None:
        """Validate the request and make its prompt. Raises `RequestError`."""
        defaults: Mapping[str, Any] = self._model.defaults(self._name)
        try:
            # The future has no name: its exception would keep it and the body in a cycle.
            body, prompt = await asyncio.wrap_future(
                self._model.preprocessor.submit(
                    self._data, defaults, self._most(), dialect=self._dialect
                )
            )
        finally:
            self._data = b""  # free it: a completion may take an hour
        self.body, self.stream = body, bool(body.stream)
        self.chat, self.echo = body.chat, body.dialect_data
        self.warnings += [*body.warnings, *prompt.warnings]
        self._prompt = prompt

    async def start(self) -> None:
        """Prepare the request and add it to the session's batch. Raises `RequestError`."""
        await self.prepare()
        try:
            await self._put_in_batch(self.body, self._prompt)
        except RequestError as error:
            raise renamed(error, self.body.names) from None

    async def _put_in_batch(self, body: Body, prompt: Prompt) -> None:
        """Add the request to the session's batch. Raises `RequestError`."""
        form = self._model.output_format if self.chat else OutputFormat()
        form = described(form) if prompt.described else form
        masks: list[Mask] = []
        if body.constraint is not None:
            form, masks = await asyncio.to_thread(self._constrain, body.constraint, form)

        def parser() -> OutputParser:
            return OutputParser(
                self.tokenizer,
                form,
                generation=prompt.generation,
                stops=body.stops,
                tools=prompt.tools,
                chat=self.chat,
                continues=body.continues or not self.chat,  # a text completion continues its prompt
            )

        self._choices = choices(body, prompt, parser, masks)
        self._choices[0].request.asked = self.timing.ready
        if body.thinking_budget:
            self._bound_reasoning(body.thinking_budget)
        for choice in self._choices:
            self._listen(choice)
        self.timing.start()
        await asyncio.wrap_future(self._mlx.submit(self._begin))

    def _bound_reasoning(self, budget: int) -> None:
        """Limit reasoning to `budget` tokens."""
        form, tokenizer, generation = (
            self._model.output_format,
            self.tokenizer,
            self._prompt.generation,
        )
        if closing_mark(form):
            for choice in self._choices:
                prompt = len(choice.request.prompt)
                choice.budget = ReasoningBudget(tokenizer, form, generation, prompt, budget)
            return
        why = "its reasoning cannot be limited" if reasons(form) else "it does not reason"
        words = f"thinking_budget: has no effect on this model, as {why}; ignored"
        self.warnings.append(reworded(words, self.body.names))

    def _listen(self, choice: Choice) -> None:
        """Forward the events of a choice from the MLX thread to this event loop."""
        body, request, mask = self.body, choice.request, choice.mask
        post = mailbox.of_running_loop().post
        unsent: list[Item] = []

        def put(news: News) -> None:
            post(self._news.put_nowait, (choice, news))

        def emit(token: int, end: str | None, logprobs: Any) -> None:
            self.timing.note_token()
            if mask is not None and mask.error:
                raise UnenforceableError(mask.error)
            number = body.alternatives
            likelihood = None if number is None else measure(token, logprobs, number)
            unsent.append((token, end, likelihood))
            if self.stream or end is not None or len(unsent) == TOGETHER:
                put(unsent.copy())
                unsent.clear()

        def scored(likelihoods: list[Likelihood]) -> None:
            put(PromptScored(likelihoods))
            if body.max_tokens == 0:
                put([_NOTHING])

        request.emit, request.fail = emit, put
        request.streams = self.stream
        request.ends = self._prompt.ends or None
        options = body.stream_options
        if request.follows is not None:
            return
        reports = self.stream and options is not None and bool(options.include_progress)

        def read(tokens: int) -> None:
            self.timing.note_read()
            if reports:
                put(PromptRead(tokens))

        request.read = read
        if body.echo and body.alternatives is not None:
            request.score = Score(body.alternatives, scored, alone=body.max_tokens == 0)
        elif body.max_tokens == 0:
            put([_NOTHING])

    def _constrain(
        self, constraint: Constraint, form: OutputFormat
    ) -> tuple[OutputFormat, list[Mask]]:
        """Output format under a grammar, and a token mask for each choice to generate.

        Slow: not for the event loop. Raises `RequestError`.
        """
        enforcer, prompt = self._model.enforcer, self._prompt
        apart = 1 if repeats(self.body) else self.body.n or 1
        masks = []
        for tokens in prompt.all_tokens:
            for _ in range(apart):
                enforced, matcher = enforcer.enforce(constraint, form, prompt.generation)
                if matcher is not None:
                    masks.append(Mask(matcher, len(tokens), self._model.vocabulary))
        if enforced.warning:
            self.warnings.append(reworded(enforced.warning, self.body.names))
        return reading_form(enforced, form), masks

    def _begin(self) -> None:
        """Start the choices in the session. MLX thread only. Raises `RequestError`."""
        session = session_of(self._model.session, self._name)
        most = session.config.context_length
        for choice in self._choices:
            request = choice.request
            room = most - len(request.prompt)
            if room < 1:
                key = "messages" if self.chat else "prompt"
                raise too_long(len(request.prompt), most, key)
            if request.max_tokens is not None:
                request.max_tokens = max(1, min(request.max_tokens, room))
            prepare(choice, self.body, self.tokenizer, self._model.vocabulary, session.ends)
        session.kv_budget.take(self._lease)
        if self.body.max_tokens == 0 and self.body.alternatives is None:
            return  # the model has nothing to compute
        with admitting():
            session.start(*(choice.request for choice in self._choices))

    def _most(self) -> int | None:
        """Context length of the session [tokens]; None if the session is closed."""
        try:
            return int(self._model.session(self._name).config.context_length)
        except KeyError:
            return None

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the output as it is generated; the last piece of each choice has a finish reason.

        Propagates the model's exceptions.
        """
        count, read = 0, dict.fromkeys(self._choices, 0)
        while not all(choice.ended for choice in self._choices):
            choice, news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            if isinstance(news, PromptRead):
                # A preempted request also prefills the tokens that it had generated.
                read[choice] = min(news.tokens, len(choice.request.prompt))
                yield Piece(Delta(), count, read=sum(read.values()))
                continue
            if isinstance(news, PromptScored):
                choice.prompt_likelihoods = news.likelihoods
                continue
            for item in news:
                if choice.ended:  # drop the tokens after a stop
                    break
                count += len(choice.indices) if item is not _NOTHING else 0
                for piece in self._pieces(choice, item, count):
                    yield piece

    def _pieces(self, choice: Choice, item: Item, count: int) -> Iterator[Piece]:
        """Pieces that a token adds to a choice and to those identical to it.

        `count`: tokens of all choices so far.
        """
        token, end, likelihood = item
        if likelihood is not None and (end != "stop" or self.body.echo):
            choice.likelihoods.append(likelihood)
        delta = choice.parser.feed(token, end) if item is not _NOTHING else Delta()
        if delta.calls and self.body.parallel_tool_calls is False:
            delta.calls, delta.stopped = delta.calls[:1], True
        if delta.stopped:
            if end is None:
                self._cancel(choice)
            end = "stop"
        if end == "stop" and choice.parser.called:
            end = "tool_calls"
        choice.ended = end is not None
        if not delta and end is None:
            return
        likelihoods, choice.likelihoods = choice.likelihoods, []
        for index in choice.indices:
            yield Piece(delta, count, end, likelihoods, index=index)

    def cancel(self) -> None:
        """Cancel the choices that are still running or waiting."""
        # Followers first: a follower would start when the request that it follows is cancelled.
        self._cancel(*reversed(self._choices))

    def _cancel(self, *those: Choice) -> None:
        def cancel() -> None:
            for choice in those:
                self._model.cancel(self._name, choice.request)

        self._mlx.submit(cancel)
