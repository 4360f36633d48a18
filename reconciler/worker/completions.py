"""A completion: a request, checked, put into its session's batch, and its answers as they come."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.core.dialects import Dialect
from reconciler.core.protocol import NO_CONTEXT, NO_LEASE, Lease, RequestContext
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
    """What is certain since the last piece, and the end."""

    delta: Delta
    tokens: int
    """Generated until now, of all answers."""
    finish_reason: str | None = None
    likelihoods: list[Likelihood] = field(default_factory=list)
    read: int | None = None
    """Tokens of the prompt that were read until now, while it is being read."""
    index: int = 0
    """Of the answer that it is a piece of; 0 if only one was asked for."""


TOGETHER = 16
"""Tokens that are told at a time where nobody reads them as they come: telling takes time from the
thread that computes. A stop is noticed as much later, and what came after it dropped."""


class UnenforceableError(RuntimeError):
    """An answer cannot go on as its grammar wants it."""


Item = tuple[int, str | None, Likelihood | None]


_NOTHING: Item = (-1, "length", None)
"""The end of an answer of no token."""


@dataclass(frozen=True)
class PromptRead:
    """Tokens of a prompt that were read until now."""

    tokens: int


@dataclass(frozen=True)
class PromptScored:
    """What was asked for of a prompt: of all its tokens but the first."""

    likelihoods: list[Likelihood]


News = list[Item] | PromptRead | PromptScored | Exception


class Completion:
    """One request, and its answers."""

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
        self._news: asyncio.Queue[tuple[Choice, News]] = asyncio.Queue()
        self._choices: list[Choice] = []
        self._prompt = Prompt([])

    @property
    def answers(self) -> int:
        """How many there are: of each prompt as many as were asked for."""
        return sum(len(choice.indices) for choice in self._choices)

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt, of all prompts if there are several."""
        return sum(len(tokens) for tokens in self._prompt.all_tokens)

    @property
    def context_length(self) -> int | None:
        """The session's, in tokens; None: it is gone."""
        return self._most()

    @property
    def reasoning_tokens(self) -> int:
        """Of the completion, those that were reasoning."""
        return sum(c.parser.reasoning_tokens * len(c.indices) for c in self._choices)

    @property
    def cached_tokens(self) -> int:
        """Of the prompt, found in the KV cache of an earlier request."""
        leaders = (c.request for c in self._choices if c.request.follows is None)
        return sum(request.cached_tokens or 0 for request in leaders)

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self._model.tokenizer

    def prompt_of(self, index: int) -> tuple[str, list[int], list[Likelihood]]:
        """The prompt that an answer repeats: its text, its tokens, and, if they were asked for,
        the log-probabilities of all of them but the first.
        """
        choice = next(c for c in self._choices if index in c.indices)
        leader = next(c for c in self._choices if c.prompt == choice.prompt)
        tokens = self._prompt.all_tokens[choice.prompt]
        return self._prompt.texts[choice.prompt], tokens, leader.prompt_likelihoods

    async def prepare(self) -> None:
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
        self.chat, self.echo = body.chat, body.dialect_data
        self.warnings += [*body.warnings, *prompt.warnings]
        self._prompt = prompt

    async def start(self) -> None:
        """Prepare it and put it into the session's batch. Raises `RequestError`."""
        await self.prepare()
        try:
            await self._put_in_batch(self.body, self._prompt)
        except RequestError as error:
            raise renamed(error, self.body.names) from None

    async def _put_in_batch(self, body: Body, prompt: Prompt) -> None:
        """Put it into the session's batch. Raises `RequestError`."""
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
                continues=body.continues or not self.chat,  # a text goes on from its prompt
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
        """Have reasoning end after so many tokens."""
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
        why = "its reasoning cannot be bounded" if reasons(form) else "it does not reason"
        words = f"thinking_budget: has no effect on this model, as {why}; ignored"
        self.warnings.append(reworded(words, self.body.names))

    def _listen(self, choice: Choice) -> None:
        """Have what happens to a choice on the MLX thread told here."""
        body, request, mask = self.body, choice.request, choice.mask
        loop = asyncio.get_running_loop()
        unsent: list[Item] = []

        def put(news: News) -> None:
            loop.call_soon_threadsafe(self._news.put_nowait, (choice, news))

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
        """How the answers are read that a grammar allows, and what keeps each one to it.

        Not for a thread that others wait for. Raises `RequestError`.
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
        """On the MLX thread. Raises `RequestError`."""
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
            return  # nothing is asked of the model
        with admitting():
            session.start(*(choice.request for choice in self._choices))

    def _most(self) -> int | None:
        """The context length of the session, if it is still there."""
        try:
            return int(self._model.session(self._name).config.context_length)
        except KeyError:
            return None

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is said, as it comes; the last piece of each answer has the reason of its end.

        Raises what the model raised.
        """
        count, read = 0, dict.fromkeys(self._choices, 0)
        while not all(choice.ended for choice in self._choices):
            choice, news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            if isinstance(news, PromptRead):
                # A request that had to make room reads its own answer again, too.
                read[choice] = min(news.tokens, len(choice.request.prompt))
                yield Piece(Delta(), count, read=sum(read.values()))
                continue
            if isinstance(news, PromptScored):
                choice.prompt_likelihoods = news.likelihoods
                continue
            for item in news:
                if choice.ended:  # what came after a stop is dropped
                    break
                count += len(choice.indices) if item is not _NOTHING else 0
                for piece in self._pieces(choice, item, count):
                    yield piece

    def _pieces(self, choice: Choice, item: Item, count: int) -> Iterator[Piece]:
        """What a token adds to an answer, and to those that are the same.

        `count`: tokens of all answers so far.
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
        """Give its places in the batch to others."""
        # Who follows goes first: it would begin when the one that it follows goes.
        self._cancel(*reversed(self._choices))

    def _cancel(self, *those: Choice) -> None:
        def cancel() -> None:
            for choice in those:
                self._model.cancel(self._name, choice.request)

        self._mlx.submit(cancel)
