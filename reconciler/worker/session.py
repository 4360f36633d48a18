"""A session: settings over shared weights, with a batch generator of its own.

An instance, as the daemon calls it, is a session here. Requests wait until there is a place in
the batch and memory for their KV cache; whoever owns the MLX thread calls `step` as long as there
is something to do. What requests leave in the KV cache, at the ends of segments of their prompts
and at their own end, is kept for prompts that begin alike, as long as the memory is not needed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

from reconciler.core.footprint import PREFILL_BATCH, TILE
from reconciler.core.protocol import Lease, Usage
from reconciler.core.records import EffectiveSettings
from reconciler.worker import company, generators, observing, overrides, random_state
from reconciler.worker.generators import Batching, Generated, Job, Read
from reconciler.worker.heartbeat import SLOWEST_TOKENS_PER_SECOND, Heartbeat
from reconciler.worker.kv_budget import KVBudget
from reconciler.worker.prompt_cache import PromptCache, always_rewindable
from reconciler.worker.sampling import Seeded

Tell = Callable[[int, str | None, Any], None]
"""Hears each token id, "stop" or "length" at the last one, and the log-probabilities of the
whole vocabulary that it was chosen by."""

Fail = Callable[[Exception], None]

BATCH_SIZE = 32
"""Requests that generate together; more wait for a place. mlx-lm's default."""

MAX_WAITING = 128
"""Requests that wait for a place in the batch."""

OPEN_ENDED = 1024
"""Tokens that a request without a limit is given room for at a time."""


class ContextLengthExceededError(ValueError):
    """Prompt and completion would not fit in the session's context length."""


class InsufficientMemoryError(RuntimeError):
    """The KV cache of the request would not fit even if nothing else ran."""


class OverloadedError(RuntimeError):
    """As many requests wait as may."""


@dataclass(eq=False)
class Request:
    """One completion: the prompt, how it goes on, and who hears of it."""

    prompt: list[int]
    max_tokens: int | None
    """None: until the context is full."""
    tell: Tell
    fail: Fail
    sampler: Callable[[Any], Any] | None = None
    processors: Sequence[Any] = ()
    boundaries: tuple[int, ...] = ()
    """Places in the prompt, in tokens, where later ones are likely to part from it, ascending; the
    first one is the end of the system turns."""
    ends: tuple[int, ...] | None = None
    """Tokens that end it; None: those of the session."""
    read: Callable[[int], None] | None = None
    """Called with the tokens of the prompt that were read so far, after each step of them."""
    kept: bool = True
    """Whether its KV cache is kept for prompts that begin alike."""
    counted: bool = True
    """Whether it is a client's, whose tokens are counted."""
    cached_tokens: int | None = None
    """Of the prompt, found in a kept KV cache; None: it still waits."""
    told: int = 0
    """Tokens that were generated in all."""
    left: int = 0
    """Tokens that it may still generate."""
    reserved: int = 0
    """Tokens of KV cache that it has room for."""
    unread: int = 0
    """Prompt tokens that the generator has not computed yet."""
    known: int = 0
    """Prompt tokens that it was inserted with a cache of."""
    cuts: tuple[int, ...] = ()
    """Places in the prompt at which its cache is kept, since it was inserted."""
    uid: int | None = None
    """Its place in the generator, while it is there."""
    generated: list[int] = field(default_factory=list)
    """Since it took that place."""

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.prompt) + len(self.generated)


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
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Request] = {}
        self._begin()

    def _begin(self) -> None:
        """A fresh generator, and no kept prompts."""
        self._generator = generators.make(
            self.batching,
            self._model,
            ends=self.ends,
            prefill_step=self.config.eval_batch_size,
            batch_size=BATCH_SIZE,
        )
        self._kept = PromptCache()
        self._rewinds = always_rewindable(make_prompt_cache(self._model))

    @property
    def _batch_size(self) -> int:
        return 1 if self.batching is Batching.APART else BATCH_SIZE

    @property
    def busy(self) -> bool:
        """Whether a request is running or waits."""
        return bool(self._running or self._waiting)

    @property
    def reads_in_tiles(self) -> bool:
        """Whether a prompt is being read of which more than a tile of attention is left."""
        return any(request.unread > TILE for request in self._running.values())

    def _lengths(self, *more: Request) -> list[int]:
        """Tokens that running requests, and these, have room for."""
        return [request.reserved for request in (*self._running.values(), *more)]

    @property
    def kept_bytes(self) -> int:
        """Size of the KV caches that are kept of finished requests."""
        return self._kept.nbytes

    def start(self, request: Request) -> None:
        """Take a request up.

        Raises `ContextLengthExceededError`, `InsufficientMemoryError` or `OverloadedError` before
        anything is computed.
        """
        asked, context = request.max_tokens, self.config.context_length
        if request.length + (asked or 1) > context:
            raise ContextLengthExceededError(
                f"{request.length} prompt tokens and {asked or 1} more exceed the context length "
                f"of {context}"
            )
        if (problem := self._too_long(request, asked or 1)) is not None:
            raise problem
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError(
                f"{len(self._running)} requests are being answered and {MAX_WAITING} wait"
            )
        request.left = asked or min(context, self.kv_budget.most_tokens()) - request.length
        self._waiting.append(request)
        self._admit()

    def _admit(self) -> None:
        """Let requests in, in order, as far as there is a place and memory."""
        while self._waiting and len(self._running) < self._batch_size:
            request = self._waiting[0]
            request.reserved = request.length + (
                request.left if request.max_tokens else min(request.left, OPEN_ENDED)
            )
            if not self._fits(request):
                if self._running:
                    return
                # What nobody held when it came is held now: it may be too long even alone.
                more = request.left if request.max_tokens else 1
                if (problem := self._too_long(request, more)) is not None:
                    self._waiting.popleft()
                    request.fail(problem)
                    continue
                if not request.max_tokens:
                    request.left = min(request.left, self.kv_budget.most_tokens() - request.length)
                    request.reserved = min(request.reserved, request.length + request.left)
            self._waiting.popleft()
            try:
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

    def _insert(self, request: Request) -> None:
        """Give a request its place in the generator, with what is known of its prompt."""
        prompt, cache, known = request.prompt, None, 0
        if request.kept:
            cache, known = self._kept.find(prompt)
        if request.cached_tokens is None:
            request.cached_tokens = known
            if request.counted:
                self._count(len(prompt), 0)
        request.unread, request.known = len(prompt) - known, known
        request.cuts = self._cuts(request)
        starts = [known, *request.cuts]
        segments = [prompt[a:b] for a, b in zip(starts, [*request.cuts, None], strict=True)]
        if isinstance(request.sampler, Seeded):
            request.sampler.go_on_after(request.told)
        job = Job(
            segments,
            request.left,
            prompt[:known],
            cache,
            request.sampler,
            request.processors,
            request.ends,
        )
        request.uid = self._generator.insert(job)
        self._running[request.uid] = request
        self._trim()

    def _cuts(self, request: Request) -> tuple[int, ...]:
        """Places in a prompt, ascending, at which its cache is kept."""
        places = request.boundaries if request.kept else ()
        if self._rewinds:  # what is kept at the end serves as well, once it is there
            places = places[:1]
        # The last token is never read with the others: the first one generated comes from it.
        ends = {min(place, len(request.prompt) - 1) for place in places}
        return tuple(sorted(end for end in ends if end > request.known))

    def _trim(self) -> None:
        """Kept prompts have what running requests leave of the memory."""
        self._kept.trim(self.kv_budget.left(self._lengths()))

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
            self._leave(request)
            self._trim()
        elif request in self._waiting:
            self._waiting.remove(request)
        self._admit()

    def _leave(self, request: Request) -> None:
        """Take a request out of the generator."""
        uid, request.uid = request.uid, None
        if uid is None or self._running.pop(uid, None) is None:
            return
        with suppress(Exception):  # it leaves in any case; what cannot be kept is not
            if request.kept and (held := self._generator.extract(uid)) is not None:
                cache, tokens = held
                self._kept.keep(tokens, cache)
        self._generator.remove(uid)

    def _count(self, prompt: int, completion: int) -> None:
        before = self.usage
        self.usage = Usage(before.prompt_tokens + prompt, before.completion_tokens + completion)

    def _next_tokens(self) -> int:
        """Tokens that the next step computes, at most: a piece of each of some prompts, padded to
        the longest, and one of each of the other requests.
        """
        pieces = [min(r.unread, self.config.eval_batch_size) for r in self._running.values()]
        together = PREFILL_BATCH if self.batching is Batching.TOGETHER else 1
        reading = min(together, sum(piece > 0 for piece in pieces))
        return reading * max(pieces, default=0) + len(self._running)

    def step(self) -> None:
        """One step of the batch. Where it fails, all of its requests do."""
        with self._heartbeat.beating(self._next_tokens() / SLOWEST_TOKENS_PER_SECOND):
            self._step()

    def _step(self) -> None:
        try:
            self._advance()
        except Exception as error:  # noqa: BLE001  every request is told
            random_state.renew()
            running, self._running = self._running, {}
            self._generator.close()
            self._begin()
            for request in running.values():
                request.uid = None
                request.fail(error)
        self._admit()

    def _advance(self) -> None:
        pieces, tokens = self._generator.next()
        for piece in pieces:
            self._note_read(piece)
        for one in tokens:
            request = self._running[one.uid]
            request.left -= 1
            request.told += 1
            if request.counted:
                self._count(0, 1)
            request.generated.append(one.token)
            end = one.finish_reason or self._end_of_room(request)
            try:
                request.tell(one.token, end, one.logprobs)
            except Exception as error:  # noqa: BLE001  it is this request's
                self._leave(request)
                request.fail(error)
                continue
            if one.finish_reason is not None:
                self._finish(request, one)
            elif end is not None:
                self._leave(request)
                self._trim()
        self._grow()

    def _end_of_room(self, request: Request) -> str | None:
        """End a request without a limit that runs alone if the memory that it had is recalled."""
        if request.max_tokens or request.length < request.reserved or len(self._running) > 1:
            return None
        return "length" if request.length >= self.kv_budget.most_tokens() else None

    def _note_read(self, piece: Read) -> None:
        """Keep the cache at the end of a segment."""
        request = self._running[piece.uid]
        request.unread = piece.total - piece.done
        if request.read is not None:
            request.read(len(request.prompt) - request.unread)
        place = request.known + piece.done
        if piece.segment_ended and place in request.cuts:
            held = self._generator.extract(piece.uid)
            if held is not None:
                cache, tokens = held
                self._kept.keep(tokens, cache, root=place == request.boundaries[0])
                self._trim()

    def _finish(self, request: Request, last: Generated) -> None:
        del self._running[last.uid]
        request.uid = None
        if request.kept and last.cache is not None:
            self._kept.keep(last.tokens, generators.owned(last.cache))
            self._trim()

    def _grow(self) -> None:
        """Give open-ended requests more room; where there is none, the youngest waits again."""
        for request in list(self._running.values()):
            if request.uid is None or request.length < request.reserved:
                continue
            request.reserved = request.length + min(request.left, OPEN_ENDED)
            while len(self._running) > 1 and not self._fits():
                youngest = next(reversed(self._running.values()))
                self._leave(youngest)
                youngest.prompt = youngest.prompt + youngest.generated
                youngest.generated = []
                self._waiting.appendleft(youngest)
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
        request = _unasked(1, 1, errors)
        request.sampler = make_sampler(temp=1.0)
        self._insert(request)
        while self._running:
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

        config = replace(self.config, eval_batch_size=self._generator.prefill_step)
        observed, unused, self.routed = observing.observe(self._model, config, call)
        return observed, unused

    def learn_batching(self) -> tuple[Batching, str | None]:
        """How requests can run beside each other, and why not together. Raises as `observe`."""
        return company.learn(self._model)

    def run_requests(self, batching: Batching) -> None:
        """Run requests beside each other in this way. Before any is started."""
        if batching is not self.batching:
            self.batching = batching
            self._generator.close()
            self._begin()

    def close(self) -> None:
        """Let go of the generator; what still runs or waits is told so."""
        gone = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for request in gone:
            request.fail(RuntimeError("the instance was unloaded"))
        self._generator.close()


def _unasked(length: int, tokens: int, errors: list[Exception]) -> Request:
    """A request of ours, which leaves nothing behind."""
    fail = errors.append
    return Request([0] * length, tokens, _ignore, fail, kept=False, counted=False, left=tokens)


def _ignore(_token: int, _end: str | None, _logprobs: Any) -> None:
    """Nobody wants to hear it."""
