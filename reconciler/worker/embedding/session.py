"""A session of an embedding model: runs the texts of all requests through the model in steps.

A step computes at most `eval_batch_size` tokens, padding included: either a batch of texts of
similar length, or a piece of a longer text. A long text has a KV cache while it is read. Only one
long text is read at a time, and its steps alternate with batches of short texts. Requests take
turns, so that none waits for the end of a large one; batches are filled with texts of other
requests.
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
"""Maximum number of running and waiting requests."""

MOST_PADDED = 2
"""Maximum ratio of text lengths within a batch."""


@dataclass(eq=False)
class EmbeddingRequest:
    """Texts of one client, and callbacks for their vectors."""

    tokens: Sequence[Sequence[int]]
    skips: Sequence[int]
    """Number of tokens at the beginning of each text that are not pooled."""
    finish: Callable[[list[Any]], None]
    """Called with a float32 numpy array (dimensions,) for each text, in order."""
    fail: Callable[[Exception], None]
    vectors: list[Any] = field(default_factory=list)
    """Computed vectors; None for those still missing."""
    short: list[int] = field(default_factory=list)
    """Indices of pending texts that fit in a step, by ascending length."""
    long: deque[int] = field(default_factory=deque)
    """Indices of pending texts that do not fit in a step."""
    missing: int = 0


@dataclass(eq=False)
class _Reading:
    """A text longer than a step, while it is read."""

    request: EmbeddingRequest
    index: int
    cache: Any
    states: States
    read: int = 0

    @property
    def tokens(self) -> Sequence[int]:
        return self.request.tokens[self.index]


class EmbeddingSession:
    """A session with one set of settings. Used on the MLX thread only."""

    batching = None
    kept_bytes = 0
    """It keeps no cache of finished requests."""
    kv_bytes = 0
    """KV caches exist only while a long text is read and are not reported."""

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
        """Total time of its steps, by which sessions share the thread."""
        self.routed: frozenset[int] = frozenset()
        """Observed numbers of experts per token."""
        settings = overrides.Overrides(config.flash_attention, config.offload_kv_cache_to_gpu)
        self._model = model
        self._hidden = overrides.ModelWithOverrides(hidden_states(model), settings)
        self._embedder = embedder
        self._encoder = Encoder(embedder, model.dense)
        self._heartbeat = heartbeat
        self._waiting: deque[EmbeddingRequest] = deque()
        """Requests with pending texts."""
        self._running: set[EmbeddingRequest] = set()
        self._reading: _Reading | None = None
        self._read_last = False

    @property
    def busy(self) -> bool:
        """True if there are texts to compute."""
        return bool(self._waiting or self._reading)

    @property
    def reads_in_tiles(self) -> bool:
        """True if more than a tile of attention is computed at a time."""
        if not self._embedder.causal:
            longest = (len(r.tokens[r.short[-1]]) for r in self._waiting if r.short)
            return any(length > TILE for length in longest)
        return self._reading is not None and len(self._reading.tokens) > TILE

    @property
    def _step_tokens(self) -> int:
        """Maximum tokens of a step."""
        if self._embedder.causal:
            return self.config.eval_batch_size
        # Each token attends to all others, so a text cannot be read in pieces.
        return max(self.config.eval_batch_size, self.config.context_length)

    def start(self, request: EmbeddingRequest) -> None:
        """Queue a request.

        Raises `InsufficientMemoryError` or `OverloadedError` before any computation.
        """
        longest = max(map(len, request.tokens))
        self._check_memory(longest)
        if len(self._running) >= MAX_WAITING:
            raise OverloadedError(f"{MAX_WAITING} requests are running or waiting")
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
        """Remove a request if it is still pending or running."""
        self._running.discard(request)
        if request in self._waiting:
            self._waiting.remove(request)
        if self._reading is not None and self._reading.request is request:
            self._reading = None

    def recall(self, lease: Lease) -> int:
        """Lower the session's lease; return the bytes that texts use beyond what is reserved."""
        self.kv_budget.take(lease)
        mx.clear_cache()
        lengths = [len(self._reading.tokens)] if self._reading is not None else []
        return self.kv_budget.in_use(lengths)

    def step(self) -> None:
        """Run one step. On failure, the requests whose texts it computed fail."""
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
        """Next request in turn; one with only long texts waits while another long text is read."""
        for _ in range(len(self._waiting)):
            request = self._waiting[0]
            self._waiting.rotate(-1)
            if request.short or (request.long and self._reading is None):
                return request
        return None

    def _batch(self, first: EmbeddingRequest) -> Iterator[tuple[EmbeddingRequest, int]]:
        """Choose texts for a batch: first from `first`, then from others with similar lengths."""
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
        except Exception as error:  # noqa: BLE001  reported to every request
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
        """Hidden states of a batch of texts. `lengths` is empty if there is no padding."""
        if self._embedder.causal:
            return self._hidden(rows)
        with both_ways(self._model, lengths):
            return self._hidden(rows)

    def _begin(self, request: EmbeddingRequest, index: int) -> None:
        """Read the first piece of a long text."""
        try:
            self._check_memory(len(request.tokens[index]))
        except InsufficientMemoryError as error:  # memory was recalled since the request began
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
        except Exception as error:  # noqa: BLE001  only this request fails
            self._fail({request}, error)
            return
        self._reading = None
        self._take(request, index, vector)

    def _take(self, request: EmbeddingRequest, index: int, vector: Any) -> None:
        """Store a text's vector; call the client back once all its vectors are computed."""
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
        """Compute the vectors of these texts now, while other requests wait.

        Raises the same exceptions as `start`, and those of the model.
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
        """Compute the vector of one token. Raises the model's exceptions."""
        self._vectors([[0]], [0])

    def observe(self, *, compute: bool = True) -> tuple[EffectiveSettings, tuple[str, ...]]:
        """Return the effective settings and the unused ones.

        Without `compute`, only the graph of a call is built. Raises the model's exceptions.
        """

        def call() -> None:
            if compute or not self._embedder.causal:
                self.probe()
            self._hidden(mx.array([[0]]), cache=make_prompt_cache(self._model))

        observed, unused, self.routed = observing.observe(self._model, self.config, call)
        return observed, unused

    def close(self) -> None:
        """Release everything; pending requests fail."""
        self._fail(set(self._running), RuntimeError("the instance was unloaded"))
