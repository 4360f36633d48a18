"""A session of an embedding model: texts of all requests, taken through the model in steps.

A step computes no more than `eval_batch_size` tokens, padding included: a batch of texts of about
the same length, or a piece of a text that is longer. A long text has a KV cache while it is read,
one such text at a time, and steps of it alternate with batches of short ones. Requests take turns,
so that none waits for the end of a large one; batches are filled up with texts of others.
"""

import bisect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from reconciler.core.embedder import Embedder
from reconciler.core.footprint import TILE
from reconciler.core.protocol import Lease, Usage
from reconciler.core.records import EffectiveSettings
from reconciler.worker import observing, overrides
from reconciler.worker.embedding.encoder import Encoder, States, both_ways, hidden_states
from reconciler.worker.heartbeat import SLOWEST_TOKENS_PER_SECOND, Heartbeat
from reconciler.worker.kv_budget import InsufficientMemoryError, KVBudget
from reconciler.worker.waiting import OverloadedError

MAX_WAITING = 128
"""Requests that are being answered or wait."""

MOST_PADDED = 2
"""A text is computed with others that are up to so many times as long."""


@dataclass(eq=False)
class EmbeddingRequest:
    """Texts of one client, and who gets their vectors."""

    tokens: Sequence[Sequence[int]]
    skips: Sequence[int]
    """Tokens at the beginning of each text that are not pooled."""
    finish: Callable[[list[Any]], None]
    """Called with a float32 numpy array (dimensions,) for each text, in order."""
    fail: Callable[[Exception], None]
    vectors: list[Any] = field(default_factory=list)
    """None for what is not computed yet."""
    short: list[int] = field(default_factory=list)
    """Texts that fit in a step and are not begun, by ascending length."""
    long: deque[int] = field(default_factory=deque)
    """The others."""
    missing: int = 0


@dataclass(eq=False)
class _Reading:
    """A text that is longer than a step."""

    request: EmbeddingRequest
    index: int
    cache: Any
    states: States
    read: int = 0

    @property
    def tokens(self) -> Sequence[int]:
        return self.request.tokens[self.index]


class EmbeddingSession:
    """One set of settings in force. Used on the MLX thread only."""

    batching = None
    kept_bytes = 0
    """It keeps nothing of finished requests."""
    kv_bytes = 0
    """A KV cache lasts for one long text; it is not reported."""

    def __init__(
        self,
        model: Any,
        embedder: Embedder,
        config: EffectiveSettings,
        kv_budget: KVBudget,
        heartbeat: Heartbeat,
    ) -> None:
        self.config, self.kv_budget = config, kv_budget
        self.usage = Usage()
        self.seconds = 0.0
        """Time that its steps took: sessions share the thread by it."""
        self.routed: frozenset[int] = frozenset()
        """Numbers of experts per token that layers were seen to use."""
        settings = overrides.Overrides(config.flash_attention, config.offload_kv_cache_to_gpu)
        self._model = model
        self._hidden = overrides.ModelWithOverrides(hidden_states(model), settings)
        self._embedder = embedder
        self._encoder = Encoder(embedder, model.dense)
        self._heartbeat = heartbeat
        self._waiting: deque[EmbeddingRequest] = deque()
        """Requests with texts that are not begun."""
        self._running: set[EmbeddingRequest] = set()
        self._reading: _Reading | None = None
        self._read_last = False

    @property
    def busy(self) -> bool:
        """True if a text is to be computed."""
        return bool(self._waiting or self._reading)

    @property
    def reads_in_tiles(self) -> bool:
        """True if more than a tile of attention is to be computed at a time."""
        if not self._embedder.causal:
            longest = (len(r.tokens[r.short[-1]]) for r in self._waiting if r.short)
            return any(length > TILE for length in longest)
        return self._reading is not None and len(self._reading.tokens) > TILE

    @property
    def _step_tokens(self) -> int:
        """Tokens of a step."""
        if self._embedder.causal:
            return self.config.eval_batch_size
        # Its tokens attend to all others, so that no text can be read in pieces.
        return max(self.config.eval_batch_size, self.config.context_length)

    def start(self, request: EmbeddingRequest) -> None:
        """Take a request up.

        Raises `InsufficientMemoryError` or `OverloadedError` before anything is computed.
        """
        longest = max(map(len, request.tokens))
        self._check_memory(longest)
        if len(self._running) >= MAX_WAITING:
            raise OverloadedError(f"{MAX_WAITING} requests are being answered or wait")
        request.missing = len(request.tokens)
        request.vectors = [None] * request.missing
        order = sorted(range(request.missing), key=lambda i: len(request.tokens[i]))
        short = bisect.bisect_right(order, self._step_tokens, key=lambda i: len(request.tokens[i]))
        request.short, request.long = order[:short], deque(order[short:])
        self._running.add(request)
        self._waiting.append(request)

    def _check_memory(self, tokens: int) -> None:
        most = self.kv_budget.most_tokens()
        if tokens > most:
            raise InsufficientMemoryError(
                f"a text of {tokens} tokens needs more memory than this machine has free now, "
                f"which is enough for {most} tokens"
            )

    def cancel(self, request: EmbeddingRequest) -> None:
        """Let go of a request, if it is still there."""
        self._running.discard(request)
        if request in self._waiting:
            self._waiting.remove(request)
        if self._reading is not None and self._reading.request is request:
            self._reading = None

    def recall(self, lease: Lease) -> int:
        """Lower the session's lease; the bytes that texts take beside what is reserved."""
        self.kv_budget.take(lease)
        mx.clear_cache()
        lengths = [len(self._reading.tokens)] if self._reading is not None else []
        return self.kv_budget.in_use(lengths)

    def step(self) -> None:
        """One step. Where it fails, the requests whose texts it computed do."""
        with self._heartbeat.beating(self._step_tokens / SLOWEST_TOKENS_PER_SECOND):
            if self._reading is not None and (not self._read_last or not self._any_short()):
                self._read_last = True
                self._read_on(self._reading)
                return
            self._read_last = False
            request = self._next()
            if request is None:
                return
            if request.short:
                self._compute(list(self._batch(request)))
            else:
                self._begin(request, request.long.popleft())
            self._waiting = deque(r for r in self._waiting if r.short or r.long)

    def _any_short(self) -> bool:
        return any(request.short for request in self._waiting)

    def _next(self) -> EmbeddingRequest | None:
        """The request whose turn it is; one with long texts alone waits while another is read."""
        for _ in range(len(self._waiting)):
            request = self._waiting[0]
            self._waiting.rotate(-1)
            if request.short or (request.long and self._reading is None):
                return request
        return None

    def _batch(self, first: EmbeddingRequest) -> Iterator[tuple[EmbeddingRequest, int]]:
        """Texts to be computed together: some of `first`, then of others, of about its length."""
        longest = len(first.tokens[first.short[-1]])
        rows = max(1, self._step_tokens // longest)
        for request in [first, *(r for r in self._waiting if r is not first)]:
            while rows and request.short:
                length = len(request.tokens[request.short[-1]])
                if length > longest or length * MOST_PADDED < longest:
                    break
                rows -= 1
                yield request, request.short.pop()
            if not rows:
                return

    def _compute(self, batch: list[tuple[EmbeddingRequest, int]]) -> None:
        try:
            tokens = [request.tokens[index] for request, index in batch]
            skips = [request.skips[index] for request, index in batch]
            vectors = np.array(self._vectors(tokens, skips))
        except Exception as error:  # noqa: BLE001  every request is told
            self._fail({request for request, _ in batch}, error)
            return
        for (request, index), vector in zip(batch, vectors, strict=True):
            self._take(request, index, vector)

    def _vectors(self, tokens: Sequence[Sequence[int]], skips: Sequence[int]) -> Any:
        lengths = [len(text) for text in tokens]
        longest = max(lengths)
        rows = [[*text, *[0] * (longest - len(text))] for text in tokens]
        hidden = self._called(mx.array(rows), lengths if min(lengths) < longest else ())
        vectors = self._encoder.pool(hidden, lengths, skips)
        mx.eval(vectors)
        return vectors

    def _called(self, rows: Any, lengths: Sequence[int]) -> Any:
        """The hidden states of texts of these lengths; none are given where there is no padding."""
        if self._embedder.causal:
            return self._hidden(rows)
        with both_ways(self._model, lengths):
            return self._hidden(rows)

    def _begin(self, request: EmbeddingRequest, index: int) -> None:
        """Read the first piece of a long text."""
        try:
            self._check_memory(len(request.tokens[index]))
        except InsufficientMemoryError as error:  # some was recalled since it came
            self._fail({request}, error)
            return
        cache, states = make_prompt_cache(self._model), States(self._embedder.pooling)
        self._reading = _Reading(request, index, cache, states)
        self._read_last = True
        self._read_on(self._reading)

    def _read_on(self, reading: _Reading) -> None:
        end = min(reading.read + self._step_tokens, len(reading.tokens))
        request, index = reading.request, reading.index
        try:
            piece = mx.array([list(reading.tokens[reading.read : end])])
            hidden = self._hidden(piece, cache=reading.cache)
            reading.states.add(hidden, [len(reading.tokens)], [request.skips[index]])
            mx.eval(reading.states.arrays(), [one.state for one in reading.cache])
            reading.read = end
            if end < len(reading.tokens):
                return
            vector = np.array(self._encoder.finish(reading.states))[0]
        except Exception as error:  # noqa: BLE001  it is this request's
            self._fail({request}, error)
            return
        self._reading = None
        self._take(request, index, vector)

    def _take(self, request: EmbeddingRequest, index: int, vector: Any) -> None:
        """Give a text its vector, and the client all of them once they are there."""
        if request not in self._running:
            return
        tokens = self.usage.prompt_tokens + len(request.tokens[index])
        self.usage = replace(self.usage, prompt_tokens=tokens)
        request.vectors[index] = vector
        request.missing -= 1
        if not request.missing:
            self._running.discard(request)
            request.finish(request.vectors)

    def _fail(self, requests: set[EmbeddingRequest], error: Exception) -> None:
        for request in requests:
            self.cancel(request)
            request.fail(error)

    def embed(self, tokens: Sequence[Sequence[int]], skips: Sequence[int]) -> list[Any]:
        """The vectors of these texts, here and now, whatever else waits. Raises as `start` does,
        or what the model raises.
        """
        vectors: list[Any] = []
        errors: list[Exception] = []
        request = EmbeddingRequest(tokens, skips, vectors.extend, errors.append)
        self.start(request)
        while not errors and request in self._running:
            self.step()
        if errors:
            raise errors[0]
        return vectors

    def probe(self) -> None:
        """Compute the vector of one token. Raises what the model raises."""
        self._vectors([[0]], [0])

    def observe(self, *, compute: bool = True) -> tuple[EffectiveSettings, tuple[str, ...]]:
        """The settings in force, and those that nothing used; without `compute` nothing but the
        graph of a call is built. Raises what the model raises.
        """

        def call() -> None:
            if compute or not self._embedder.causal:
                self.probe()
            self._hidden(mx.array([[0]]), cache=make_prompt_cache(self._model))

        observed, unused, self.routed = observing.observe(self._model, self.config, call)
        return observed, unused

    def close(self) -> None:
        """Let go of everything; what still waits is told so."""
        self._fail(set(self._running), RuntimeError("the instance was unloaded"))
