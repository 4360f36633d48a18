"""A generator that drafts tokens for a request that runs alone."""

# ruff: noqa: SLF001  mlx-lm has no public API for the state of a batch

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from reconciler.core.protocol import Speculated
from reconciler.worker.generators import BatchedGenerator, Generated, Job, Read
from reconciler.worker.prefill_cost import LEAST, PrefillCost
from reconciler.worker.sampling import Seeded
from reconciler.worker.speculation.draft import DraftModel
from reconciler.worker.speculation.lookup import PromptLookup
from reconciler.worker.speculation.pace import WIDTHS, Pace, StepTimes
from reconciler.worker.speculation.verify import next_token, remaining, verify


class Speculation:
    """Ways to draft of a session, and their measurements, which outlast its generators."""

    def __init__(
        self,
        *,
        lookup: bool = True,
        draft: DraftModel | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.lookup = StepTimes() if lookup else None
        """Times of prompt lookup, if it is used."""
        self.draft = draft
        self.draft_times = StepTimes()
        self.draft_cost = PrefillCost()
        """Times in which the draft model reads chunks of prompts."""
        self.budget = math.inf
        """Maximum time in which the draft model reads a chunk in the next step [s]."""
        self.clock = clock
        self.ordinary = True
        """False if the last step checked drafts, or returned a token that an earlier one accepted.
        """
        self.spent = 0.0
        """Time that an ordinary step spent on drafting before it generated a token [s]."""
        self.count = Speculated()
        """Counts since the session was opened."""

    @property
    def used(self) -> bool:
        """True if there is a way to draft."""
        return self.lookup is not None or self.draft is not None

    @property
    def most_tokens(self) -> int:
        """Maximum tokens that a step computes for drafts, besides those of an ordinary one."""
        checked = WIDTHS[-1] + 1
        return checked if self.draft is None else checked + self.draft.chunk + WIDTHS[-1]

    @property
    def plain(self) -> float:
        """Time of an ordinary step [s]; 0: not measured yet."""
        return self.draft_times.plain

    def note_plain(self, seconds: float) -> None:
        """Record the time of an ordinary step."""
        for times in (self.lookup, self.draft_times):
            if times is not None:
                times.note_plain(seconds)


class _Drafting:
    """A request for which tokens may be drafted."""

    def __init__(self, job: Job, speculation: Speculation) -> None:
        self.room = job.room
        self.lookup = PromptLookup()
        self.lookup_pace = None if speculation.lookup is None else Pace(speculation.lookup)
        self.draft = speculation.draft
        self.draft_pace = Pace(speculation.draft_times)
        self.plain_next = False
        """True if the next step has to be an ordinary one."""


class SpeculativeGenerator:
    """A `BatchedGenerator` that checks drafts while exactly one request runs in it.

    Accepted tokens are returned one by one, by as many calls of `next`, so that a request can be
    cancelled at each of them.
    """

    def __init__(self, generator: BatchedGenerator, speculation: Speculation) -> None:
        self.prefill_step = generator.prefill_step
        self._generator = generator
        self._speculation = speculation
        self._jobs: dict[int, _Drafting | None] = {}
        """All jobs; None: not drafted for."""
        self._ready: deque[Generated] = deque()
        """Tokens that are final and not returned yet."""
        if speculation.draft is not None:
            speculation.draft.clear()
        self._drafted_for: _Drafting | None = None
        """Request whose tokens the draft model's cache holds."""

    def insert(self, job: Job) -> int:
        """Add a job and return its id."""
        uid = self._generator.insert(job)
        can = job.room is not None and not job.processors and not isinstance(job.sampler, Seeded)
        self._jobs[uid] = _Drafting(job, self._speculation) if can else None
        return uid

    def next(self, most: int | None = None) -> tuple[list[Read], list[Generated]]:
        """Run one step. Propagates the model's exceptions."""
        speculation = self._speculation
        start = speculation.clock()
        speculation.ordinary = False
        if self._ready or self._speculate():
            return [], [self._returned(self._ready.popleft())]
        drafting = self._alone()
        begin = speculation.clock()
        speculation.ordinary, speculation.spent = True, begin - start
        read, generated = self._generator.next(most)
        if drafting is not None and generated and not read:
            speculation.note_plain(speculation.clock() - begin)
            for pace in (drafting.lookup_pace, drafting.draft_pace):
                if pace is not None:
                    pace.note_plain()
        return read, [self._returned(one) for one in generated]

    def _returned(self, one: Generated) -> Generated:
        if one.finish_reason is not None:
            self._jobs.pop(one.uid, None)
        return one

    def _alone(self) -> _Drafting | None:
        """The only job, if it is generating and may be drafted for."""
        if len(self._jobs) != 1:
            return None
        ((uid, drafting),) = self._jobs.items()
        generating: Any = self._generator.mlx_lm._generation_batch.uids
        return drafting if generating == [uid] else None

    def _speculate(self) -> bool:
        """Check drafts; True if tokens are ready."""
        drafting = self._alone()
        if drafting is None:
            return False
        if drafting.plain_next:
            drafting.plain_next = False
            return False
        begin = self._speculation.clock()
        pace, drafts = self._drafts(drafting)
        if not drafts:
            return False
        verified = verify(self._generator.mlx_lm, drafts)
        seconds = self._speculation.clock() - begin
        pace.note_pass(len(drafts), verified.accepted, len(verified.generated), seconds)
        # Without tokens to return, the ordinary step is this one.
        drafting.plain_next = verified.unsure and bool(verified.generated)
        self._ready.extend(verified.generated)
        replaced = len(verified.generated) * self._speculation.plain
        self._speculation.count = self._speculation.count.plus(
            Speculated(len(drafts), verified.accepted, seconds, replaced)
        )
        return bool(self._ready)

    def _drafts(self, drafting: _Drafting) -> tuple[Pace, list[int]]:
        """Draft the tokens after the next token; none if an ordinary step is better."""
        generator = self._generator.mlx_lm
        tokens = generator._generation_batch.tokens[0]
        room = drafting.room() if drafting.room is not None else 0
        # The next token itself takes a place.
        most = min(remaining(generator), room, self.prefill_step) - 1
        pace = drafting.lookup_pace
        # The next token may still be computed; it is waited for only if there is something to copy.
        if pace is not None and most > 0 and not pace.rests and drafting.lookup.find(tokens, 1):
            number = min(most, pace.choose())
            if drafts := drafting.lookup.find(tokens, number, [next_token(generator)]):
                return pace, drafts
        pace, draft = drafting.draft_pace, drafting.draft
        if draft is None or most < 1 or pace.rests:
            return pace, []
        if self._drafted_for is not drafting:
            draft.begin()
            self._drafted_for = drafting
        if self._read(drafting, draft, tokens):
            return pace, []
        return pace, draft.draft(tokens, next_token(generator), min(most, pace.choose()))

    @property
    def draft_reads(self) -> bool:
        """True if the draft model may read a chunk of a prompt in the next step."""
        drafting = self._alone()
        if drafting is None or drafting.draft is None or self._ready or drafting.draft_pace.rests:
            return False
        tokens = self._generator.mlx_lm._generation_batch.tokens[0]
        return self._drafted_for is not drafting or drafting.draft.lacks(tokens) >= LEAST

    def _read(self, drafting: _Drafting, draft: DraftModel, tokens: Sequence[int]) -> bool:
        """Read a chunk of the tokens that the draft model lacks; False if there are only a few."""
        speculation = self._speculation
        begin = draft.match(tokens)
        least = draft.chunk if math.isinf(speculation.budget) else min(LEAST, draft.chunk)
        if (lacking := len(tokens) - begin) < least:
            return False
        cost = speculation.draft_cost
        width = min(lacking, cost.width(speculation.budget, 1, begin, draft.chunk))
        start = speculation.clock()
        if draft.read(tokens, width):
            cost.learn(width, 1, begin, speculation.clock() - start)
        else:
            drafting.draft = None  # nor will it, as the text only grows
        return True

    def extract(self, uid: int) -> tuple[list[Any], list[int]] | None:
        """Copy a job's cache, with the tokens that it holds; None if it holds nothing new."""
        return self._generator.extract(uid)

    def remove(self, uid: int) -> None:
        """Remove a job."""
        self._jobs.pop(uid, None)
        self._ready = deque(one for one in self._ready if one.uid != uid)
        self._generator.remove(uid)

    def close(self) -> None:
        """Remove all jobs and release the resources."""
        self._jobs.clear()
        self._ready.clear()
        self._generator.close()
