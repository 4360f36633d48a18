"""A session: settings over shared weights, with a batch generator of its own.

An instance, as the daemon calls it, is a session here. Requests wait (`waiting`) until there is a
place in the batch (`batch`) and memory for their KV cache (`kv_budget`); whoever owns the MLX
thread calls `step` as long as there is something to do.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from reconciler.core.footprint import PREFILL_BATCH, TILE
from reconciler.core.protocol import Lease, Usage
from reconciler.core.records import EffectiveSettings
from reconciler.worker import company, observing, overrides, random_state
from reconciler.worker.batch import Batch
from reconciler.worker.generators import Batching
from reconciler.worker.heartbeat import SLOWEST_TOKENS_PER_SECOND, Heartbeat
from reconciler.worker.kv_budget import InsufficientMemoryError, KVBudget
from reconciler.worker.pending import Request, Score, unasked
from reconciler.worker.scoring import PromptScorer, Scoring
from reconciler.worker.waiting import MAX_WAITING, OverloadedError, Waiting

OPEN_ENDED = 1024
"""Tokens that a request without a limit is given room for at a time."""


class ContextLengthExceededError(ValueError):
    """Prompt and completion would not fit in the session's context length."""


class Session:
    """One set of settings in force. Used on the MLX thread only."""

    def __init__(
        self,
        model: Any,
        config: EffectiveSettings,
        eos: Sequence[int] = (),
        kv_budget: KVBudget | None = None,
        heartbeat: Heartbeat | None = None,
        batching: Batching = Batching.TOGETHER,
    ) -> None:
        self.config = config
        self.batching = batching
        self.usage = Usage()
        self._heartbeat = heartbeat or Heartbeat()
        self.seconds = 0.0
        """Time that its steps took: sessions share the thread by it."""
        self.kv_budget = kv_budget or KVBudget(config)
        settings = overrides.Overrides(config.flash_attention, config.offload_kv_cache_to_gpu)
        self._model = overrides.ModelWithOverrides(model, settings)
        self.ends = tuple(eos)
        """Tokens that end an answer."""
        self.routed: frozenset[int] = frozenset()
        """Numbers of experts per token that layers were seen to use."""
        self._waiting = Waiting()
        self._scoring = Scoring(self._model, config.eval_batch_size)
        self._batch = self._new_batch()

    def _new_batch(self) -> Batch:
        return Batch(self._model, self.config.eval_batch_size, self.ends, self.batching)

    @property
    def busy(self) -> bool:
        """Whether a request is running or waits."""
        return bool(self._batch.running or self._scoring or self._waiting)

    @property
    def reads_in_tiles(self) -> bool:
        """Whether a prompt is being read of which more than a tile of attention is left."""
        return any(request.unread > TILE for request in self._admitted)

    @property
    def _admitted(self) -> list[Request]:
        """Requests that have a place and memory."""
        return [*self._batch.running.values(), *self._scoring]

    def _lengths(self, *more: Request) -> list[int]:
        """Tokens that admitted requests, and these, have room for."""
        return [request.reserved for request in (*self._admitted, *more)]

    @property
    def kept_bytes(self) -> int:
        """Size of the KV caches that are kept of finished requests."""
        return self._batch.kept.nbytes

    def start(self, *requests: Request) -> None:
        """Take requests up, all or none.

        Raises `ContextLengthExceededError`, `InsufficientMemoryError` or `OverloadedError` before
        anything is computed.
        """
        for request in requests:
            self._check(request)
        if len(self._waiting) + len(requests) > MAX_WAITING:
            raise OverloadedError(
                f"{len(self._admitted)} requests are being answered and "
                f"{len(self._waiting)} of {MAX_WAITING} wait"
            )
        for request in requests:
            most = min(self.config.context_length, self.kv_budget.most_tokens())
            request.left = request.max_tokens or most - request.length
        self._waiting.add(requests)
        self._admit()

    def _check(self, request: Request) -> None:
        """Raise what `start` raises of a request that can never be answered."""
        asked, context = request.max_tokens, self.config.context_length
        if request.length + (asked or 1) > context:
            raise ContextLengthExceededError(
                f"{request.length} prompt tokens and {asked or 1} more exceed the context length "
                f"of {context}"
            )
        if (problem := self._too_long(request, asked or 1)) is not None:
            raise problem

    def _is_to_be_read(self, request: Request) -> bool:
        """True if a request is going to read its prompt."""
        return not request.emitted and (request in self._admitted or request in self._waiting)

    def _admit(self) -> None:
        """Let requests in, in order, as far as there is a place and memory."""
        self._waiting.end_following(self._is_to_be_read)
        waiting = self._waiting.ready
        while waiting and len(self._admitted) < self._batch.places:
            request = waiting[0]
            request.reserved = request.length + (
                request.left if request.max_tokens else min(request.left, OPEN_ENDED)
            )
            if not self._fits(request):
                if self._admitted:
                    return
                # What nobody held when it came is held now: it may be too long even alone.
                more = request.left if request.max_tokens else 1
                if (problem := self._too_long(request, more)) is not None:
                    waiting.popleft()
                    request.fail(problem)
                    continue
                if not request.max_tokens:
                    request.left = min(request.left, self.kv_budget.most_tokens() - request.length)
                    request.reserved = min(request.reserved, request.length + request.left)
            waiting.popleft()
            try:
                if request.score is not None:
                    self._begin_scoring(request, request.score)
                else:
                    self._insert(request)
            except Exception as error:  # noqa: BLE001  it is this request's
                request.fail(error)

    def _too_long(self, request: Request, more: int) -> InsufficientMemoryError | None:
        """What is said of a request that would not fit now even if nothing else ran."""
        most = self.kv_budget.most_tokens()
        if request.length + more <= most:
            return None
        return InsufficientMemoryError(
            f"{request.length} prompt tokens and {more} more need more memory than "
            f"this machine has free now, which is enough for {most} tokens"
        )

    def _fits(self, *more: Request) -> bool:
        return self.kv_budget.fits(self._lengths(*more))

    def _begin_scoring(self, request: Request, score: Score) -> None:
        """Have all of a prompt read, whatever is known of it."""
        self._scoring.add(request, score)
        self._note_cached(request, 0)
        self._trim()

    def _score(self) -> None:
        """Read a piece of the first prompt whose log-probabilities are asked for."""
        request = self._scoring.first
        try:
            ended = self._scoring.read()
            if ended is not None:
                self._end_scoring(request, *ended)
        except Exception as error:  # noqa: BLE001  it is this request's
            self._scoring.remove(request)
            request.fail(error)

    def _end_scoring(self, request: Request, score: Score, scorer: PromptScorer) -> None:
        if request.kept and scorer.known:
            self._batch.kept.keep(scorer.known, scorer.cache)
        score.on_scores(scorer.found)
        request.score = None
        if score.alone:
            self._trim()
        else:
            self._insert(request)

    def _insert(self, request: Request) -> None:
        """Give a request its place in the batch."""
        self._batch.insert(request)
        self._note_cached(request, request.known)
        self._trim()

    def _note_cached(self, request: Request, tokens: int) -> None:
        """Count a prompt as its request is admitted first: `tokens` of it were in a kept cache."""
        if request.cached_tokens is not None:
            return
        request.cached_tokens = tokens
        if request.counted and request.follows is None:
            self._count(len(request.prompt), 0, tokens)

    def _trim(self) -> None:
        """Kept prompts have what running requests leave of the memory."""
        self._batch.kept.trim(self.kv_budget.left(self._lengths()))

    def recall(self, lease: Lease) -> int:
        """Lower the session's lease; kept prompts give way at once.

        Returns the bytes that running requests take beside what is reserved. They keep them, but
        neither grow nor start in them.
        """
        self.kv_budget.take(lease)
        self._trim()
        mx.clear_cache()
        return self.kv_budget.in_use(self._lengths())

    def cancel(self, request: Request) -> None:
        """Let go of a completion, if it is still there."""
        if request.uid is not None:
            self._batch.leave(request)
            self._trim()
        elif not self._waiting.remove(request):
            self._scoring.remove(request)
        self._admit()

    def _count(self, prompt: int, completion: int, cached: int = 0) -> None:
        before = self.usage
        self.usage = replace(
            before,
            prompt_tokens=before.prompt_tokens + prompt,
            completion_tokens=before.completion_tokens + completion,
            cached_tokens=before.cached_tokens + cached,
        )

    def _count_first(self, request: Request) -> None:
        """Note how long a client waited for the first token of its request."""
        if request.asked is not None:
            first = self.usage.first_tokens.with_one(time.monotonic() - request.asked)
            self.usage = replace(self.usage, first_tokens=first)

    def _next_tokens(self) -> int:
        """Tokens that the next step computes, at most: a piece of each of some prompts, padded to
        the longest, and one of each of the other requests.
        """
        pieces = [min(r.unread, self.config.eval_batch_size) for r in self._admitted]
        together = PREFILL_BATCH if self.batching is Batching.TOGETHER else 1
        reading = min(together + bool(self._scoring), sum(piece > 0 for piece in pieces))
        return reading * max(pieces, default=0) + len(self._batch.running)

    def step(self) -> None:
        """One step of the batch. Where it fails, all of its requests do."""
        with self._heartbeat.beating(self._next_tokens() / SLOWEST_TOKENS_PER_SECOND):
            self._step()

    def _step(self) -> None:
        try:
            if self._batch.running:
                self._advance()
        except Exception as error:  # noqa: BLE001  every request is told
            random_state.renew()
            for request in self._batch.restart():
                request.fail(error)
        if self._scoring:
            self._score()
        self._admit()

    def _advance(self) -> None:
        pieces, tokens = self._batch.generator.next()
        for piece in pieces:
            if self._batch.note_read(piece):
                self._trim()
        for one in tokens:
            request = self._batch.running[one.uid]
            request.left -= 1
            request.emitted += 1
            if request.counted:
                self._count(0, 1)
                if request.emitted == 1:
                    self._count_first(request)
            request.generated.append(one.token)
            end = one.finish_reason or self._end_of_room(request)
            try:
                request.emit(one.token, end, one.logprobs)
            except Exception as error:  # noqa: BLE001  it is this request's
                self._batch.leave(request)
                request.fail(error)
                continue
            if one.finish_reason is not None:
                self._batch.finish(one)
                self._trim()
            elif end is not None:
                self._batch.leave(request)
                self._trim()
        self._grow()

    def _end_of_room(self, request: Request) -> str | None:
        """End a request without a limit that runs alone if the memory that it had is recalled."""
        if request.max_tokens or request.length < request.reserved or len(self._batch.running) > 1:
            return None
        return "length" if request.length >= self.kv_budget.most_tokens() else None

    def _grow(self) -> None:
        """Give open-ended requests more room; where there is none, the youngest waits again."""
        for request in list(self._batch.running.values()):
            if request.uid is None or request.length < request.reserved:
                continue
            request.reserved = request.length + min(request.left, OPEN_ENDED)
            while len(self._batch.running) > 1 and not self._fits():
                youngest = next(reversed(self._batch.running.values()))
                self._batch.leave(youngest)
                youngest.prompt = youngest.prompt + youngest.generated
                youngest.generated = []
                self._waiting.ready.appendleft(youngest)
            if not self._fits():  # alone, in memory of which some was recalled
                most = self.kv_budget.most_tokens()
                request.reserved = max(request.length, min(request.reserved, most))
            self._trim()

    def generate(self, prompt: Sequence[int], max_tokens: int) -> list[int]:
        """Greedy completion, here and now, whatever else is running.

        Raises as `start` does, or what the model raises.
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
        """Generate one token as a default request does, whatever the limits.

        Raises what the model or the sampler raises.
        """
        errors: list[Exception] = []
        request = unasked(1, 1, errors)
        request.sampler = make_sampler(temp=1.0)
        self._insert(request)
        while self._batch.running:
            self.step()
        if errors:
            raise errors[0]

    def observe(self, *, compute: bool = True) -> tuple[EffectiveSettings, tuple[str, ...]]:
        """Generate one token: the settings in force, and those that nothing used.

        Without `compute` nothing but the graph of a call is built, which takes milliseconds:
        settings act there. Raises what the model raises.
        """

        def call() -> None:
            if compute:
                self.probe()
            else:
                self._model(mx.array([[0]]), cache=make_prompt_cache(self._model))

        config = replace(self.config, eval_batch_size=self._batch.generator.prefill_step)
        observed, unused, self.routed = observing.observe(self._model, config, call)
        return observed, unused

    def learn_batching(self) -> tuple[Batching, str | None]:
        """How requests can run beside each other, and why not together. Raises as `observe`."""
        return company.learn(self._model)

    def run_requests(self, batching: Batching) -> None:
        """Run requests beside each other in this way. Before any is started."""
        if batching is not self.batching:
            self.batching = batching
            self._batch.close()
            self._batch = self._new_batch()

    def close(self) -> None:
        """Let go of the generator; what still runs or waits is told so."""
        gone = [*self._admitted, *self._waiting]
        self._waiting.clear()
        self._scoring.clear()
        self._batch.close()
        for request in gone:
            request.fail(RuntimeError("the instance was unloaded"))
