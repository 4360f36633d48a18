"""Preprocessing on the worker's side: route requests to processes and convert failures to errors.

Short requests share one process. Long ones have a second process, started on demand, so that short
requests never wait for long ones. Requests that arrive while a short one is slow also go to the
second process. A tokenizer or chat template that is Python code, from mlx_lm or transformers, runs
in the worker's own process.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from reconciler.core.dialects import Dialect
from reconciler.core.embedder import Embedder
from reconciler.core.reranker import Reranker
from reconciler.worker import request as requests
from reconciler.worker.chat import rendering
from reconciler.worker.embedding.request import Texts, Tokenizing
from reconciler.worker.errors import RequestError, UnavailableError
from reconciler.worker.preprocessing import work
from reconciler.worker.preprocessing.lane import Facts, Lane
from reconciler.worker.preprocessing.messages import (
    Bind,
    Embed,
    Failed,
    Paired,
    Prepare,
    Prepared,
    Rank,
    Refused,
    Render,
    Reply,
    Text,
    Tokenized,
)
from reconciler.worker.preprocessing.process import ProcessEndedError, UnansweredError
from reconciler.worker.preprocessing.tokenizer import describe
from reconciler.worker.prompt import Prompt, Prompts
from reconciler.worker.ranking.request import Pairs, Ranking
from reconciler.worker.request import Body

LONG = 256_000
"""Body size, in bytes, from which a request counts as long."""

SECONDS = 60.0
"""Time limit of a request; its renderings are limited by `work.RENDERING_SECONDS`."""

PROBING_SECONDS = 20.0
"""Time limit of all renderings that examine a checkpoint's template during a load."""

RENDER_SECONDS = 15.0
"""Time limit of one rendering, which has a shorter limit of its own."""

LONGEST_PROBE = 200_000
"""Maximum characters of one of our short test conversations when rendered."""

LINGER_SECONDS = 60.0
"""Idle time after which the process for long requests is ended."""

NICE = 5
"""Niceness of the process for long requests relative to the worker's. With few cores, streams keep
their pace, and beside one busy process it still gets a quarter of a core."""

MAX_WAITING = 128
"""Maximum requests waiting for one process."""

MAX_WAITING_BYTES = 64_000_000
"""Maximum total size of the bodies of waiting requests: four of the largest."""

Renderer = Callable[..., str]


class Preprocessor:
    """Makes the prompts of one checkpoint. Methods may be called on any thread."""

    def __init__(self, *, apart: bool = True) -> None:
        """If `apart`, uses separate processes; otherwise threads of this process."""
        self._apart = apart
        self._facts = Facts()
        self._short = Lane(self._facts)
        self._long = Lane(self._facts, LINGER_SECONDS, NICE)
        self._local: Prompts | None = None
        self._tokenizing: Tokenizing | None = None
        self._tokenizer: Any = None
        """Tokenizer of `_local`."""
        self._probing = PROBING_SECONDS
        """Remaining time for renderings during the load."""
        self._threads = ThreadPoolExecutor(4, "prompt")
        """Threads for work in this process."""

    def start(self) -> None:
        """Start a process in advance."""
        self._short.submit(self._short.start)

    def close(self) -> None:
        """End the processes after all submitted jobs."""
        for lane in (self._short, self._long):
            lane.submit(lane.end).result()

    def memory(self) -> int:
        """Resident memory of the processes, in bytes."""
        return self._short.memory() + self._long.memory()

    def set_up(self, tokenizer: Any) -> None:
        """Set up mlx_lm's `tokenizer`; its `eos_token_ids` may be incomplete.

        Raises `UnansweredError` if no process is available now.
        """
        self._facts.setup = describe(tokenizer) if self._apart else None
        if self._facts.setup is None:
            return
        try:
            self._short.submit(self._short.inform).result()
        except UnansweredError:
            raise
        except ProcessEndedError:
            self._facts.setup = None

    def renderer(self, tokenizer: Any, source: str) -> Renderer:
        """Return a function that renders our test conversations with a template during the load.

        It raises TimeoutError if one rendering, or all together, take too long; later calls then
        fail immediately.
        """
        if self._facts.setup is None:
            return rendering.of_source(tokenizer, source)

        def render(turns: list[dict[str, Any]], **variables: Any) -> str:
            return self._probe(Render(source, turns, variables, LONGEST_PROBE))

        return render

    def _probe(self, request: Render) -> str:
        if self._probing <= 0:
            raise TimeoutError(f"its renderings took more than {PROBING_SECONDS:g} s")
        begin = time.monotonic()
        try:
            reply = self._short.submit(partial(self._short.ask, request, RENDER_SECONDS)).result()
        except ProcessEndedError as error:
            self._probing = 0.0
            raise TimeoutError(str(error)) from None
        self._probing -= time.monotonic() - begin
        if isinstance(reply, Text):
            return reply.text
        if isinstance(reply, Failed) and reply.timed_out:
            self._probing = 0.0
            raise TimeoutError(reply.message)
        raise ValueError(reply.message if isinstance(reply, Failed) else "no text")

    def bind(self, tokenizer: Any, vocabulary: int, *, rewinds: bool) -> None:
        """Prepare prompts for this model; see `Prompts`. Starts to learn its chat templates."""
        if self._facts.setup is None:
            self._local = Prompts(tokenizer, vocabulary, rewinds=rewinds)
            self._tokenizer = tokenizer
            return
        self._facts.bind = Bind(vocabulary, rewinds)
        self._short.submit(self._short.learn)

    def bind_embedder(self, tokenizer: Any, vocabulary: int, embedder: Embedder) -> None:
        """Tokenize texts for this embedding model."""
        if self._facts.setup is None:
            self._tokenizing = Tokenizing(tokenizer, vocabulary, embedder)
            return
        self._facts.bind = Bind(vocabulary, rewinds=False, embedder=embedder)
        self._short.submit(self._short.inform)

    def tokenize(
        self, body: bytes, most: int | None = None, *, dialect: Dialect = Dialect.EMBEDDINGS
    ) -> "Future[Texts]":
        """Parse an embeddings request and tokenize its texts, each at most `most` tokens long.

        The future raises `RequestError`.
        """
        if self._tokenizing is not None:
            job = partial(work.tokenize, self._tokenizing, body, most, dialect)
            return self._threads.submit(job)
        lane = self._lane(body)
        return lane.submit(partial(_tokenize, lane, Embed(body, most, dialect)), len(body))

    def rank(self, body: bytes, reranker: Reranker, most: int | None = None) -> "Future[Pairs]":
        """Parse a reranking request and make its prompts, each shorter than `most` tokens.

        The future raises `RequestError`.
        """
        if self._local is not None:
            ranking = Ranking(self._tokenizer, reranker)
            return self._threads.submit(lambda: ranking.build(requests.decoded(body), most))
        lane = self._lane(body)
        return lane.submit(partial(_rank, lane, Rank(body, reranker, most)), len(body))

    def _lane(self, body: bytes) -> Lane:
        """Choose the lane for a request with this body. Raises `UnavailableError`."""
        short, long = self._short, self._long
        lane = long if len(body) >= LONG or (short.slow and not long.slow) else short
        if lane.waiting >= MAX_WAITING:
            raise UnavailableError(f"{MAX_WAITING} requests are waiting to be parsed", "overloaded")
        waiting = short.waiting_bytes + long.waiting_bytes
        if waiting and waiting + len(body) > MAX_WAITING_BYTES:
            words = f"requests of {waiting} bytes are waiting to be parsed; retry in a moment"
            raise UnavailableError(words, "overloaded")
        return lane

    def submit(
        self,
        body: bytes,
        defaults: Mapping[str, Any],
        most: int | None = None,
        *,
        dialect: Dialect = Dialect.CHAT,
    ) -> "Future[tuple[Body, Prompt]]":
        """Parse a request and make its prompt; reject it early if it exceeds `most` tokens.

        The future raises `RequestError`.
        """
        if self._local is not None:
            job = partial(work.prepare, self._local, body, defaults, most, dialect)
            return self._threads.submit(job)
        lane = self._lane(body)
        request = Prepare(body, dict(defaults), most, dialect)
        return lane.submit(partial(_prepare, lane, request), len(body))


def _prepare(lane: Lane, request: Prepare) -> tuple[Body, Prompt]:
    """Prepare a prompt. Runs on the lane's thread. Raises `RequestError`."""
    text = request.dialect.is_text
    reply = _asked(lane, request, "prompt" if text else "messages", learned=not text)
    if isinstance(reply, Prepared):
        tools = tuple(msgspec.json.decode(reply.tools))
        return reply.body, replace(reply.prompt, tools=tools)
    raise TypeError(type(reply).__name__)


def _tokenize(lane: Lane, request: Embed) -> Texts:
    """Tokenize texts. Runs on the lane's thread. Raises `RequestError`."""
    reply = _asked(lane, request, "input", learned=False)
    if isinstance(reply, Tokenized):
        return reply.texts
    raise TypeError(type(reply).__name__)


def _rank(lane: Lane, request: Rank) -> Pairs:
    """Make the prompts of a reranking request. Runs on the lane's thread. Raises `RequestError`."""
    reply = _asked(lane, request, "documents", learned=False)
    if isinstance(reply, Paired):
        return reply.pairs
    raise TypeError(type(reply).__name__)


def _asked(lane: Lane, request: Prepare | Embed | Rank, key: str, *, learned: bool) -> Reply:
    """Send a request and return the reply. Raises `RequestError`.

    `key` is the request's largest part, which errors name. If `learned`, the process first learns
    the chat templates' variables.
    """
    try:
        if learned:
            lane.learn()
        reply = lane.ask(request, SECONDS)
    except UnansweredError as error:
        words = f"the prompt of this request could not be made: {error}; retry"
        raise UnavailableError(words, "preprocessing_failed") from None
    except ProcessEndedError as error:
        words = f"the prompt of this request could not be made: {error}"
        raise RequestError(words, "invalid_value", key) from None
    match reply:
        case Refused(status=UnavailableError.status):
            raise UnavailableError(reply.message, reply.code, reply.param)
        case Refused():
            raise RequestError(reply.message, reply.code, reply.param)
        case Failed():
            words = f"the prompt of this request could not be made: {reply.message}"
            raise RequestError(words, "invalid_value", key)
    return reply
