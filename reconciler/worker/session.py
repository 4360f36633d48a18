"""A session: settings over shared weights, with its own batch generator.

The daemon calls a session an instance. It admits its requests to the batch (`requests`), and the
MLX thread calls `step` as long as the session is busy. A step prefills chunks of prompts
(`step_sizes`) and generates a token of each other request.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from reconciler.core.footprint import PREFILL_BATCH
from reconciler.core.protocol import Lease, Usage
from reconciler.core.records import EffectiveSettings
from reconciler.worker import company, generators, observing, overrides, random_state
from reconciler.worker.batch import Batch
from reconciler.worker.disk.restoring import Post
from reconciler.worker.disk.scope import Make, Scope
from reconciler.worker.generators import Batching, Generated
from reconciler.worker.heartbeat import SLOWEST_TOKENS_PER_SECOND, Heartbeat
from reconciler.worker.kv_budget import KVBudget
from reconciler.worker.pending import Request, unasked
from reconciler.worker.prompt_cache import not_saved
from reconciler.worker.requests import Requests
from reconciler.worker.scoring import Scoring
from reconciler.worker.speculation.generator import Speculation
from reconciler.worker.step_sizes import StepSizes, most_tokens
from reconciler.worker.waiting import Waiting


class Session:
    """One set of settings and its requests. MLX thread only."""

    def __init__(
        self,
        model: Any,
        config: EffectiveSettings,
        eos: Sequence[int] = (),
        kv_budget: KVBudget | None = None,
        heartbeat: Heartbeat | None = None,
        batching: Batching = Batching.TOGETHER,
        speculation: Speculation | None = None,
        prompts: Callable[[Make], Scope] | None = None,
        post: Post = lambda job: job(),
    ) -> None:
        """`prompts` makes its prompts on disk; `post` runs a job on the MLX thread."""
        self.config = config
        self.batching = batching
        self._heartbeat = heartbeat or Heartbeat()
        self.seconds = 0.0
        """Total time of its steps, by which sessions share the thread fairly."""
        self.kv_budget = kv_budget or KVBudget(config)
        settings = overrides.Overrides(
            config.flash_attention, config.offload_kv_cache_to_gpu, config.kv_cache_bits
        )
        self._model = overrides.ModelWithOverrides(model, settings)
        self.ends = tuple(eos)
        """Stop tokens."""
        self.routed: frozenset[int] = frozenset()
        """Observed numbers of experts per token."""
        self._waiting = Waiting()
        self._scoring = Scoring(self._model, config.eval_batch_size)
        self._speculation = speculation
        self._prompts = prompts(lambda: make_prompt_cache(self._model)) if prompts else None
        self._requests = Requests(
            self._waiting,
            self._scoring,
            self._new_batch(),
            self.kv_budget,
            config.context_length,
            self._prompts,
            post,
        )
        self._sizes = StepSizes(config.eval_batch_size)

    def _new_batch(self) -> Batch:
        step, save = self.config.eval_batch_size, self._prompts.save if self._prompts else not_saved
        return Batch(self._model, step, self.ends, self.batching, save, self._speculation)

    @property
    def _batch(self) -> Batch:
        return self._requests.batch

    @property
    def usage(self) -> Usage:
        """Usage since the session was opened. Thread-safe."""
        return self._requests.counter.usage

    @property
    def drafts(self) -> bool:
        """True if tokens are drafted for requests that run alone."""
        return self._batch.drafts

    @property
    def busy(self) -> bool:
        """True if a step would do something."""
        return self._requests.busy

    @property
    def reads_in_tiles(self) -> bool:
        """True if a prompt with more than one attention tile left is being prefilled."""
        return self._requests.reads_in_tiles

    @property
    def streams(self) -> bool:
        """True if a client receives tokens as they are generated."""
        return self._requests.streams

    @property
    def prefills(self) -> bool:
        """True if a prompt is being prefilled, by the model or by a draft model."""
        return self._requests.prefills

    @property
    def usual_gap(self) -> float:
        """Usual time between two tokens [s]; 0 if unknown."""
        return self._sizes.usual_gap

    @property
    def kept_bytes(self) -> int:
        """Size of the prompt cache [bytes]. Thread-safe."""
        return self._requests.kept_bytes

    @property
    def kv_bytes(self) -> int:
        """KV cache that running requests have room for [bytes]. Also for other threads."""
        return self._requests.kv_bytes

    def start(self, *requests: Request) -> None:
        """Enqueue requests, all or none.

        Raises `ContextLengthExceededError`, `InsufficientMemoryError` or `OverloadedError` before
        anything is computed.
        """
        self._requests.add(*requests)

    def cancel(self, request: Request) -> None:
        """Cancel a request, if it is still there."""
        self._requests.cancel(request)

    def recall(self, lease: Lease) -> int:
        """Lower the session's lease, and trim the prompt cache immediately.

        Returns the memory that running requests use beyond the reservation [bytes]. They keep this
        memory, but no request grows or starts in it.
        """
        self.kv_budget.take(lease)
        self._requests.trim()
        generators.finish_started_work()  # until then, copies of evicted caches hold memory
        mx.clear_cache()
        return self._requests.bytes_in_use

    @property
    def _together(self) -> int:
        """Maximum number of prompts that a step prefills together."""
        return PREFILL_BATCH if self.batching is Batching.TOGETHER else 1

    def _next_tokens(self, read: int, scored: int) -> int:
        """Maximum tokens that the next step computes, with those that drafts may need.

        `read`, `scored`: maximum tokens of a chunk that is prefilled or scored.
        """
        running = [min(r.unread, read) for r in self._batch.running.values()]
        scoring = [min(r.unread, scored) for r in self._scoring]
        return most_tokens(running, scoring, self._together) + self._drafting_tokens

    @property
    def _drafting_tokens(self) -> int:
        """Maximum tokens that the next step computes for drafts, by the draft model too."""
        unread = [request.unread for request in self._batch.running.values()]
        if self._speculation is None or not self._batch.drafts or unread != [0]:
            return 0
        return self._speculation.most_tokens

    def step(self, budget: float = math.inf) -> None:
        """Run one step of the batch. If it fails, all requests of the batch fail.

        `budget`: maximum time to prefill prompts, as far as it can be predicted [s].
        """
        reading = [r for r in self._batch.running.values() if r.unread > 1][: self._together]
        scoring = [self._scoring.first] if self._scoring else []
        if self._speculation is not None:
            if scoring and self._batch.draft_reads:
                budget /= 2
            self._speculation.budget = budget
        read, scored = self._sizes.choose(budget, reading, scoring)
        allowance = self._next_tokens(read, scored) / SLOWEST_TOKENS_PER_SECOND
        with self._heartbeat.beating(allowance):
            self._step(read, scored)

    def _step(self, read: int, scored: int) -> None:
        """Run one step with chunks of at most so many tokens of each prompt."""
        try:
            if self._batch.running:
                self._advance(read)
        except Exception as error:  # noqa: BLE001  reported to every request
            random_state.renew()
            for request in self._batch.restart():
                request.fail(error)
        if self._scoring and scored:
            self._score(scored)
        self._requests.admit()

    def _score(self, most: int) -> None:
        """Prefill a chunk of the first prompt to score, of at most `most` tokens."""
        request = self._scoring.first
        begin, left = len(request.prompt) - request.unread, request.unread
        start = time.monotonic()
        try:
            ended = self._scoring.read(most)
            self._sizes.learn_score(left - request.unread, begin, time.monotonic() - start)
            if ended is not None:
                self._requests.end_scoring(request, *ended)
        except Exception as error:  # noqa: BLE001  only this request fails
            self._scoring.remove(request)
            request.fail(error)

    def _advance(self, most: int) -> None:
        start = time.monotonic()
        pieces, tokens = self._batch.generator.next(most)
        seconds = time.monotonic() - start
        read = [(self._batch.running[piece.uid], piece) for piece in pieces]
        speculation, counter = self._speculation, self._requests.counter
        if speculation is not None:
            counter.set_speculated(speculation.count)
        if speculation is None or speculation.ordinary:
            seconds -= 0.0 if speculation is None else speculation.spent
            self._sizes.learn(read, seconds, generated=bool(tokens))
        for piece in pieces:
            if self._batch.note_read(piece):
                self._requests.trim()
        running, ended = self._batch.running, list[Generated]()
        counter.count_tokens(sum(running[one.uid].counted for one in tokens))
        for one in tokens:
            request = running[one.uid]
            request.left -= 1
            request.emitted += 1
            if request.counted and request.emitted == 1:
                counter.count_first(request)
            request.generated.append(one.token)
            others = len(running) - len(ended) - 1
            end = one.finish_reason or self._requests.end_alone(request, others)
            try:
                request.emit(one.token, end, one.logprobs)
            except Exception as error:  # noqa: BLE001  only this request fails
                self._batch.leave(request)
                request.fail(error)
                continue
            if one.finish_reason is not None:
                ended.append(one)
            elif end is not None:
                self._requests.leave(request)
        for one in ended:  # after all tokens are passed on: saving a cache may wait for MLX
            self._batch.finish(one)
            self._requests.trim()
        self._requests.grow()

    def generate(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Generate a greedy completion, stepping the session until it is done.

        Raises the errors of `start`; propagates the model's exceptions.
        """
        tokens: list[int] = []
        errors: list[Exception] = []
        request = Request(
            list(prompt), max_tokens, lambda token, *_: tokens.append(token), errors.append
        )
        self.start(request)
        while not errors and (request.uid is not None or request in self._waiting):
            self.step()
        if errors:
            raise errors[0]
        return tokens

    def probe(self) -> None:
        """Generate one token as a request with default settings does, regardless of the limits.

        Propagates exceptions of the model and the sampler.
        """
        errors: list[Exception] = []
        request = unasked(1, 1, errors)
        request.sampler = make_sampler(temp=1.0)
        self._requests.insert(request)
        while self._batch.running:
            self.step()
        if errors:
            raise errors[0]

    def observe(self, *, compute: bool = True) -> tuple[EffectiveSettings, tuple[str, ...]]:
        """Generate one token; return the settings in force, and those that no layer used.

        Without `compute`, only the graph of a call is built, which takes milliseconds: the settings
        take effect there. Propagates the model's exceptions.
        """

        def call() -> None:
            if compute:
                self.probe()
            if not compute or config.kv_cache_bits:
                # With several tokens: `flash_attention` does not apply to one that attends to a
                # quantised cache.
                self._model(mx.array([[0, 0]]), cache=make_prompt_cache(self._model))

        config = replace(self.config, eval_batch_size=self._batch.generator.prefill_step)
        observed, unused, self.routed = observing.observe(self._model, config, call)
        return observed, unused

    def learn_batching(self) -> tuple[Batching, str | None]:
        """Determine the batching, with the reason if requests cannot run together.

        Raises as `observe`.
        """
        # Not of quantised caches: rounding would look like a difference.
        return company.learn(self._model.not_quantized())

    def run_requests(self, batching: Batching) -> None:
        """Set the batching. Call it before a request is started."""
        if batching is not self.batching:
            self.batching = batching
            self._batch.close()
            self._requests.batch = self._new_batch()

    def close(self) -> None:
        """Release the generator; requests that are running or waiting fail."""
        self._requests.close()
