"""A session: settings over shared weights, with its own batch generator.

The daemon calls a session an instance. Requests wait (`waiting`) until there is a slot in the batch
(`batch`) and memory for their KV cache (`kv_budget`). The MLX thread calls `step` as long as the
session is busy.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from reconciler.core.footprint import PREFILL_BATCH, TILE
from reconciler.core.protocol import Lease, Usage
from reconciler.core.records import EffectiveSettings
from reconciler.worker import company, generators, observing, overrides, random_state
from reconciler.worker.batch import Batch
from reconciler.worker.disk.restoring import Post, Restoring
from reconciler.worker.disk.store import Make, Scope
from reconciler.worker.generators import Batching, Generated
from reconciler.worker.heartbeat import SLOWEST_TOKENS_PER_SECOND, Heartbeat
from reconciler.worker.kv_budget import InsufficientMemoryError, KVBudget
from reconciler.worker.pending import Request, Score, unasked
from reconciler.worker.prompt_cache import not_saved
from reconciler.worker.scoring import PromptScorer, Scoring
from reconciler.worker.speculation.generator import Speculation
from reconciler.worker.stalls import StepSizes
from reconciler.worker.waiting import MAX_WAITING, OverloadedError, Waiting

OPEN_ENDED = 1024
"""Tokens of KV cache that are reserved at a time for a request without a limit."""


class ContextLengthExceededError(ValueError):
    """Prompt and completion would not fit in the session's context length."""


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
        self.usage = Usage()
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
        self._restoring = Restoring(self._prompts, post, self._insert_restored)
        self._batch = self._new_batch()
        self._sizes = StepSizes(config.eval_batch_size)

    def _new_batch(self) -> Batch:
        step, save = self.config.eval_batch_size, self._prompts.save if self._prompts else not_saved
        return Batch(self._model, step, self.ends, self.batching, save, self._speculation)

    @property
    def drafts(self) -> bool:
        """True if tokens are drafted for requests that run alone."""
        return self._batch.drafts

    @property
    def busy(self) -> bool:
        """True if a step would do something.

        While a prompt is read from disk, requests that wait for its memory are not stepped.
        """
        waiting = self._waiting and not self._restoring.copy()
        return bool(self._batch.running or self._scoring or waiting)

    @property
    def reads_in_tiles(self) -> bool:
        """True if a prompt with more than one attention tile left is being prefilled."""
        return any(request.unread > TILE for request in self._admitted)

    @property
    def streams(self) -> bool:
        """True if a client receives tokens as they are generated."""
        return any(r.streams and r.emitted and not r.unread for r in self._batch.running.values())

    @property
    def prefills(self) -> bool:
        """True if a prompt is being prefilled."""
        return bool(self._scoring) or any(r.unread > 1 for r in self._batch.running.values())

    @property
    def usual_gap(self) -> float:
        """Usual time between two tokens [s]; 0 if unknown."""
        return self._sizes.usual_gap

    @property
    def _admitted(self) -> list[Request]:
        """Requests that have a slot and memory."""
        return [*self._batch.running.values(), *self._scoring, *self._restoring.copy()]

    def _lengths(self, *more: Request) -> list[int]:
        """Reserved tokens of the admitted requests, and of `more`."""
        return [request.reserved for request in (*self._admitted, *more)]

    @property
    def kept_bytes(self) -> int:
        """Size of the prompt cache [bytes]."""
        return self._batch.kept.nbytes

    @property
    def kv_bytes(self) -> int:
        """KV cache that running requests have room for. Also for other threads."""
        # Of copies, made in one go: requests come and go meanwhile.
        running, restoring = self._batch.running.copy().values(), self._restoring.copy()
        admitted = [*running, *self._scoring, *restoring]
        return self.kv_budget.taken([request.reserved for request in admitted])

    def start(self, *requests: Request) -> None:
        """Enqueue requests, all or none.

        Raises `ContextLengthExceededError`, `InsufficientMemoryError` or `OverloadedError` before
        anything is computed.
        """
        for request in requests:
            self._check(request)
        if len(self._waiting) + len(requests) > MAX_WAITING:
            raise OverloadedError(
                f"{len(self._admitted)} requests are running and "
                f"{len(self._waiting)} of at most {MAX_WAITING} are waiting"
            )
        for request in requests:
            most = min(self.config.context_length, self.kv_budget.most_tokens())
            request.left = request.max_tokens or most - request.length
        self._waiting.add(requests)
        self._admit()

    def _check(self, request: Request) -> None:
        """Raise the errors of `start` for a request that cannot run even alone."""
        asked, context = request.max_tokens, self.config.context_length
        if request.length + (asked or 1) > context:
            raise ContextLengthExceededError(
                f"{request.length} prompt tokens and {asked or 1} more exceed the context length "
                f"of {context}"
            )
        if (problem := self._too_long(request, asked or 1)) is not None:
            raise problem

    def _is_to_be_read(self, request: Request) -> bool:
        """True if a request has yet to prefill its prompt."""
        return not request.emitted and (request in self._admitted or request in self._waiting)

    def _admit(self) -> None:
        """Admit waiting requests, in order, as far as there are slots and memory."""
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
                # Memory that was free when it arrived is in use now: it may be too long even alone.
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
            except Exception as error:  # noqa: BLE001  only this request fails
                request.fail(error)

    def _too_long(self, request: Request, more: int) -> InsufficientMemoryError | None:
        """Error for a request that would not fit now even if nothing else ran; None if it fits."""
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
        """Queue a prompt for scoring, which prefills all of it, without cached tokens."""
        self._scoring.add(request, score)
        self._note_cached(request, 0)
        self._trim()

    def _score(self, most: int) -> None:
        """Prefill a chunk of the first prompt to score, of at most `most` tokens."""
        request = self._scoring.first
        begin, left = len(request.prompt) - request.unread, request.unread
        start = time.monotonic()
        try:
            ended = self._scoring.read(most)
            self._sizes.learn_score(left - request.unread, begin, time.monotonic() - start)
            if ended is not None:
                self._end_scoring(request, *ended)
        except Exception as error:  # noqa: BLE001  only this request fails
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
        """Add a request to the batch, or begin to read its prompt from disk."""
        if self._restoring.begin(request, self._batch.kept.longest(request.prompt)):
            self._trim()
            return
        self._batch.insert(request)
        self._note_cached(request, request.known)
        self._trim()

    def _insert_restored(self, request: Request) -> None:
        """Add a request to the batch whose prompt was read from disk, or could not be."""
        try:
            self._batch.insert(request)
            self._note_cached(request, request.known)
        except Exception as error:  # noqa: BLE001  only this request fails
            request.fail(error)
        self._trim()
        self._admit()

    def _note_cached(self, request: Request, tokens: int) -> None:
        """Count a prompt when its request is first admitted; `tokens`: those found in the cache."""
        if request.cached_tokens is not None:
            return
        request.cached_tokens = tokens
        if request.counted and request.follows is None:
            self._count(len(request.prompt), 0, tokens, request.disk_tokens)

    def _trim(self) -> None:
        """Trim the prompt cache to the memory that running requests leave free."""
        self._batch.kept.trim(self.kv_budget.left(self._lengths()))

    def recall(self, lease: Lease) -> int:
        """Lower the session's lease, and trim the prompt cache immediately.

        Returns the memory that running requests use beyond the reservation [bytes]. They keep this
        memory, but no request grows or starts in it.
        """
        self.kv_budget.take(lease)
        self._trim()
        generators.finish_started_work()  # until then, copies of evicted caches hold memory
        mx.clear_cache()
        return self.kv_budget.in_use(self._lengths())

    def cancel(self, request: Request) -> None:
        """Cancel a request, if it is still there."""
        if request.uid is not None:
            self._batch.leave(request)
            self._trim()
        elif not self._restoring.remove(request) and not self._waiting.remove(request):
            self._scoring.remove(request)
        self._admit()

    def _count(self, prompt: int, completion: int, cached: int = 0, disk: int = 0) -> None:
        if not prompt + completion:
            return
        before = self.usage
        self.usage = replace(
            before,
            prompt_tokens=before.prompt_tokens + prompt,
            completion_tokens=before.completion_tokens + completion,
            cached_tokens=before.cached_tokens + cached,
            disk_tokens=before.disk_tokens + disk,
        )

    def _count_first(self, request: Request) -> None:
        """Record the time to first token of a client's request."""
        if request.asked is not None:
            first = self.usage.first_tokens.with_one(time.monotonic() - request.asked)
            self.usage = replace(self.usage, first_tokens=first)

    @property
    def _together(self) -> int:
        """Maximum number of prompts that a step prefills together."""
        return PREFILL_BATCH if self.batching is Batching.TOGETHER else 1

    def _next_tokens(self, read: int, scored: int) -> int:
        """Maximum tokens that the next step computes: a chunk of each of some prompts, padded to
        the longest, one token of each other request, and those that drafts may need.

        `read`, `scored`: maximum tokens of a chunk that is prefilled or scored.
        """
        pieces = [min(r.unread, read) for r in self._batch.running.values()]
        pieces += [min(r.unread, scored) for r in self._scoring]
        reading = min(self._together + bool(self._scoring), sum(piece > 0 for piece in pieces))
        return reading * max(pieces, default=0) + len(self._batch.running) + self._drafting_tokens

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
        self._admit()

    def _advance(self, most: int) -> None:
        start = time.monotonic()
        pieces, tokens = self._batch.generator.next(most)
        seconds = time.monotonic() - start
        read = [(self._batch.running[piece.uid], piece) for piece in pieces]
        speculation = self._speculation
        if speculation is not None:
            self.usage = replace(self.usage, speculated=speculation.count)
        if speculation is None or speculation.ordinary:
            seconds -= 0.0 if speculation is None else speculation.spent
            self._sizes.learn(read, seconds, generated=bool(tokens))
        for piece in pieces:
            if self._batch.note_read(piece):
                self._trim()
        running, ended = self._batch.running, list[Generated]()
        self._count(0, sum(running[one.uid].counted for one in tokens))
        for one in tokens:
            request = running[one.uid]
            request.left -= 1
            request.emitted += 1
            if request.counted and request.emitted == 1:
                self._count_first(request)
            request.generated.append(one.token)
            others = len(running) - len(ended) - 1
            end = one.finish_reason or self._end_of_room(request, others)
            try:
                request.emit(one.token, end, one.logprobs)
            except Exception as error:  # noqa: BLE001  only this request fails
                self._batch.leave(request)
                request.fail(error)
                continue
            if one.finish_reason is not None:
                ended.append(one)
            elif end is not None:
                self._batch.leave(request)
                self._trim()
        for one in ended:  # after all tokens are passed on: saving a cache may wait for MLX
            self._batch.finish(one)
            self._trim()
        self._grow()

    def _end_of_room(self, request: Request, others: int) -> str | None:
        """End a request without a limit that runs alone, if its memory was recalled."""
        if request.max_tokens or request.length < request.reserved or others:
            return None
        return "length" if request.length >= self.kv_budget.most_tokens() else None

    def _grow(self) -> None:
        """Reserve more tokens for open-ended requests; if none are free, preempt the youngest."""
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
            if not self._fits():  # it runs alone, and memory was recalled
                most = self.kv_budget.most_tokens()
                request.reserved = max(request.length, min(request.reserved, most))
            self._trim()

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
        self._insert(request)
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
            self._batch = self._new_batch()

    def close(self) -> None:
        """Release the generator; requests that are running or waiting fail."""
        gone = [*self._admitted, *self._waiting]
        self._waiting.clear()
        self._scoring.clear()
        self._restoring.clear()
        self._batch.close()
        for request in gone:
            request.fail(RuntimeError("the instance was unloaded"))
