"""Generators: prefill the prompts of a session and generate tokens, in a batch or one by one.

Both generators work step by step. A step prefills a chunk of some prompts and generates a token for
each request whose prompt is prefilled. A prompt consists of segments: at the end of a segment the
cache can be copied for other prompts with the same prefix.

- `BatchedGenerator` wraps mlx-lm's `BatchGenerator`.
- `SequentialGenerator` wraps mlx-lm's `generate_step`, for models that generate other tokens in a
  batch or whose caches cannot be merged.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.generate import (
    BatchGenerator,
    StopSequences,
    generate_step,
    generation_stream,
)
from mlx_lm.models.cache import ArraysCache, CacheList, make_prompt_cache

from reconciler.core.footprint import PREFILL_BATCH
from reconciler.worker.last_step import no_forward_after_the_end


class Batching(StrEnum):
    """Degree to which requests share a batch."""

    TOGETHER = "together"
    """Prompts are prefilled together, tokens are generated together."""
    READ_APART = "read apart"
    """Prompts are prefilled one at a time, tokens are generated together."""
    APART = "apart"
    """Requests run one at a time."""


@dataclass(frozen=True)
class Job:
    """A prompt to continue."""

    segments: Sequence[Sequence[int]]
    """Token ids of the part of the prompt that `cache` does not hold; not empty."""
    max_tokens: int
    known: Sequence[int] = ()
    """Tokens that `cache` holds."""
    cache: list[Any] | None = None
    """KV cache to start from; the generator takes ownership."""
    sampler: Callable[[Any], Any] | None = None
    processors: Sequence[Any] = ()
    ends: Sequence[int] | None = None
    """Stop tokens; None: the generator's."""
    room: Callable[[], int] | None = None
    """Returns how many tokens its cache may grow now; None: unknown, and nothing is drafted."""


@dataclass(frozen=True)
class Read:
    """A prefilled chunk of a prompt."""

    uid: int
    done: int
    """Tokens of the job prefilled so far."""
    total: int
    segment_ended: bool
    """True if the cache holds exactly the segments up to here."""


@dataclass(frozen=True)
class Generated:
    """A generated token of a request."""

    uid: int
    token: int
    logprobs: Any
    """Log-probabilities of the whole vocabulary, from which the token was sampled."""
    finish_reason: str | None
    """`stop` or `length` for the last token, else None."""
    cache: list[Any] | None = None
    """KV cache of `tokens`; None except for the last token."""
    tokens: Sequence[int] = ()


class Generator(Protocol):
    """Generates tokens for jobs. MLX thread only."""

    prefill_step: int
    """Maximum tokens of a prompt that a step prefills."""

    def insert(self, job: Job) -> int:
        """Add a job and return its id."""

    def next(self, most: int | None = None) -> tuple[list[Read], list[Generated]]:
        """Run one step, which prefills at most `most` tokens of a prompt; None: `prefill_step`.

        With 0, a step of a generator that generates tokens prefills nothing. Propagates the
        model's exceptions; after one, the generator is unusable.
        """

    def extract(self, uid: int) -> tuple[list[Any], list[int]] | None:
        """Copy a job's cache, with the tokens that it holds; None if it holds nothing new."""

    def remove(self, uid: int) -> None:
        """Remove a job."""

    def close(self) -> None:
        """Remove all jobs and release the resources."""


def merges(model: Any) -> bool:
    """True if all caches of a model can be merged into a batch. Same check as mlx_lm.server's."""
    return all(hasattr(cache, "merge") for cache in make_prompt_cache(model))


def make(
    batching: Batching, model: Any, *, ends: Iterable[int], prefill_step: int, batch_size: int
) -> Generator:
    """Create a generator for this degree of batching."""
    if batching is Batching.APART:
        return SequentialGenerator(model, ends=ends, prefill_step=prefill_step)
    together = PREFILL_BATCH if batching is Batching.TOGETHER else 1
    return BatchedGenerator(
        model, ends=ends, prefill_step=prefill_step, batch_size=batch_size, read_together=together
    )


class BatchedGenerator:
    """Generates for several requests in one batch."""

    def __init__(
        self,
        model: Any,
        *,
        ends: Iterable[int],
        prefill_step: int,
        batch_size: int,
        read_together: int = PREFILL_BATCH,
    ) -> None:
        self.prefill_step = prefill_step
        self._generator = BatchGenerator(
            model,
            prefill_step_size=prefill_step,
            stop_tokens=[(token,) for token in ends] or None,
            completion_batch_size=batch_size,
            prefill_batch_size=min(batch_size, read_together),
        )
        self._unread: set[int] = set()
        """Ids of jobs whose prefill has not started."""

    @property
    def mlx_lm(self) -> BatchGenerator:
        """The wrapped generator."""
        return self._generator

    def insert(self, job: Job) -> int:
        """Add a job and return its id."""
        stops = None if job.ends is None else [_stops(job.ends)]
        (uid,) = self._generator.insert_segments(
            [[list(segment) for segment in job.segments]],
            max_tokens=[job.max_tokens],
            caches=[job.cache],
            all_tokens=[list(job.known)],
            samplers=[job.sampler],
            logits_processors=[list(job.processors)],
            stop_sequences=stops,
        )
        self._unread.add(int(uid))
        return int(uid)

    def next(self, most: int | None = None) -> tuple[list[Read], list[Generated]]:
        """Run one step. Propagates the model's exceptions."""
        # mlx-lm cuts the chunks of each step by this attribute.
        self._generator.prefill_step_size = self.prefill_step if most is None else most
        with no_forward_after_the_end(self._generator):
            prompts, responses = self._generator.next()
        read = [
            Read(r.uid, r.progress[0], r.progress[1], r.end_of_segment and not r.end_of_prompt)
            for r in prompts
            if most != 0 or r.end_of_prompt
        ]
        self._unread -= {one.uid for one in read}
        generated = [
            Generated(
                r.uid, int(r.token), r.logprobs, r.finish_reason, r.prompt_cache, r.all_tokens or ()
            )
            for r in responses
        ]
        return read, generated

    def extract(self, uid: int) -> tuple[list[Any], list[int]] | None:
        """Copy a job's cache, with the tokens that it holds; None if it holds nothing new."""
        if uid in self._unread:
            return None
        found = self._generator.extract_cache([uid]).get(uid)
        return None if found is None else (owned(found[0]), list(found[1]))

    def remove(self, uid: int) -> None:
        """Remove a job."""
        self._unread.discard(uid)
        self._generator.remove([uid])

    def close(self) -> None:
        """Remove all jobs and release the resources."""
        self._generator.close()


class SequentialGenerator:
    """Generates for one request at a time."""

    def __init__(self, model: Any, *, ends: Iterable[int], prefill_step: int) -> None:
        self.prefill_step = prefill_step
        self._model = model
        self._ends = frozenset(ends)
        self._jobs: deque[_Sequence] = deque()
        self._count = 0

    def insert(self, job: Job) -> int:
        """Add a job and return its id."""
        uid, self._count = self._count, self._count + 1
        ends = self._ends if job.ends is None else frozenset(job.ends)
        self._jobs.append(_Sequence(uid, job, self._model, ends))
        return uid

    def next(self, most: int | None = None) -> tuple[list[Read], list[Generated]]:
        """Run one step. Propagates the model's exceptions."""
        if not self._jobs:
            return [], []
        job = self._jobs[0]
        if job.unread > 1:
            return [job.read(self.prefill_step if most is None else most)], []
        generated = job.generate()
        if generated.finish_reason is not None:
            self._jobs.popleft()
        read = [Read(job.uid, job.total, job.total, segment_ended=False)] if job.first else []
        return read, [generated]

    def extract(self, uid: int) -> tuple[list[Any], list[int]] | None:
        """Copy a job's cache, with the tokens that it holds; None if it holds nothing new."""
        for job in self._jobs:
            if job.uid == uid and job.begun:
                return copy.deepcopy(job.cache), list(job.tokens)
        return None

    def remove(self, uid: int) -> None:
        """Remove a job."""
        for job in self._jobs:
            if job.uid == uid:
                job.end()
        self._jobs = deque(job for job in self._jobs if job.uid != uid)

    def close(self) -> None:
        """Remove all jobs and release the resources."""
        for job in self._jobs:
            job.end()
        self._jobs.clear()


class _Sequence:
    """A job that runs alone by `generate_step`, with its prompt prefilled in steps."""

    def __init__(self, uid: int, job: Job, model: Any, ends: frozenset[int]) -> None:
        self.uid = uid
        self.cache: list[Any] = make_prompt_cache(model) if job.cache is None else job.cache
        self.tokens = list(job.known)
        """Tokens that the cache holds."""
        self._prompt = [token for segment in job.segments for token in segment]
        self.total = self.unread = len(self._prompt)
        self._bounds = _bounds(job.segments)
        self._job, self._model, self._ends = job, model, ends
        self._steps: Iterator[tuple[Any, Any]] | None = None
        self._left = job.max_tokens
        self.first = True
        """True if at most one token was generated."""

    @property
    def begun(self) -> bool:
        """True if the cache holds more tokens than it did when the job was added."""
        return len(self.tokens) > len(self._job.known)

    def read(self, most: int) -> Read:
        """Prefill a chunk of the prompt of up to `most` tokens, leaving the prompt's last token."""
        done = self.total - self.unread
        end = min([done + most, self.total - 1, *(b for b in self._bounds if b > done)])
        piece = self._prompt[done:end]
        with mx.stream(generation_stream):
            self._model(mx.array([piece]), cache=self.cache)
            mx.eval([one.state for one in self.cache])
        mx.clear_cache()
        self.tokens += piece
        self.unread -= len(piece)
        return Read(self.uid, end, self.total, segment_ended=end in self._bounds)

    def generate(self) -> Generated:
        """Generate the next token."""
        self.first = self._steps is None
        if self._steps is None:
            before = list(self.tokens)
            self._steps = generate_step(
                mx.array(self._prompt[-1:]),
                self._model,
                max_tokens=-1,
                sampler=self._job.sampler,
                logits_processors=[_seeing(before, one) for one in self._job.processors],
                prompt_cache=self.cache,
                prefill_step_size=1,
            )
            self.tokens += self._prompt[-1:]
            self.unread = 0
        # `generate_step` leaves its stream set as the thread's default between steps.
        with mx.stream(generation_stream):
            token, logprobs = next(self._steps)
        self.tokens.append(int(token))
        self._left -= 1
        reason = "stop" if token in self._ends else None if self._left else "length"
        if reason is None:
            return Generated(self.uid, int(token), logprobs, None)
        self.end()
        return Generated(self.uid, int(token), logprobs, reason, self.cache, self.tokens)

    def end(self) -> None:
        """Stop generating."""
        with mx.stream(generation_stream):
            self._steps = None


def owned(cache: list[Any]) -> list[Any]:
    """Copy the arrays of a cache that was extracted from a batch, so that it owns them.

    The copies are started but not awaited: the next step of the batch runs already, and they come
    after it. Until then they keep the batch's arrays in memory.
    """
    for one in cache:
        _own(one)
    mx.async_eval(  # type: ignore[no-untyped-call]
        [array for one in cache for _, array in tree_flatten(one.state) if _is_array(array)]
    )
    return cache


def finish_started_work() -> None:
    """Wait until MLX has computed everything that was started, such as the copies of `owned`."""
    mx.synchronize()
    mx.synchronize(generation_stream)


def _own(cache: Any) -> None:
    """Copy the views that mlx-lm's `ArraysCache.extract` returns: they keep the batch in memory."""
    if isinstance(cache, CacheList):
        for inner in cache.caches:
            _own(inner)
    elif isinstance(cache, ArraysCache):
        cache.cache = [None if array is None else mx.contiguous(array) for array in cache.cache]


def _is_array(value: Any) -> bool:
    return isinstance(value, mx.array)


def _stops(ends: Iterable[int]) -> Any:
    return StopSequences([(token,) for token in ends])


def _bounds(segments: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Ends of all segments but the last [tokens from the beginning of the first]."""
    lengths = [len(segment) for segment in segments[:-1]]
    return tuple(sum(lengths[: n + 1]) for n in range(len(lengths)))


def _seeing(before: Sequence[int], processor: Any) -> Any:
    """Wrap a logits processor so that it receives the whole prompt, as in a batch."""
    head = mx.array(list(before), dtype=mx.int32)

    def process(tokens: Any, logits: Any) -> Any:
        return processor(mx.concatenate([head, tokens.astype(mx.int32)]), logits)

    return process
