"""The requests that run in a session's generator, and the prompt cache.

The KV cache of a request is saved at the ends of its prompt's segments and at its own end, for
later prompts with the same prefix. The session trims the saved caches to the free memory.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mlx_lm.models.cache import make_prompt_cache

from reconciler.worker import generators
from reconciler.worker.generators import (
    BatchedGenerator,
    Batching,
    Generated,
    Generator,
    Job,
    Read,
)
from reconciler.worker.pending import Request
from reconciler.worker.prompt_cache import MOST, PromptCache, Save, always_rewindable
from reconciler.worker.sampling import Seeded
from reconciler.worker.speculation.generator import Speculation, SpeculativeGenerator

BATCH_SIZE = 32
"""Maximum number of requests that generate together; others wait. mlx-lm's default."""

LEAST = 16
"""Tokens that a cache saved within a prompt must spare a later prompt: each position at which one
is saved costs a pass over the model, as much as generating a token."""


class Batch:
    """A generator, its requests and its prompt cache. MLX thread only."""

    def __init__(
        self,
        model: Any,
        prefill_step: int,
        ends: Sequence[int],
        batching: Batching,
        save: Save,
        speculation: Speculation | None = None,
    ) -> None:
        """`prefill_step`: maximum tokens of a prompt chunk; `ends`: stop tokens.

        `speculation`: None: tokens are generated one by one.
        """
        self._model, self._prefill_step, self._ends = model, prefill_step, ends
        self._batching, self._save, self._speculation = batching, save, speculation
        self.running: dict[int, Request] = {}
        """Requests by their id in the generator, oldest first."""
        self._begin()

    def _begin(self) -> None:
        """Create a new generator and an empty prompt cache."""
        self.generator: Generator = generators.make(
            self._batching,
            self._model,
            ends=self._ends,
            prefill_step=self._prefill_step,
            batch_size=BATCH_SIZE,
        )
        self.kept = PromptCache(MOST, self._save)
        self._rewinds = always_rewindable(make_prompt_cache(self._model))
        speculation, generator = self._speculation, self.generator
        self.drafts = False
        """True if tokens are drafted for requests that run alone."""
        if speculation is None or not speculation.used or not self._rewinds:
            return
        if isinstance(generator, BatchedGenerator):
            self.generator, self.drafts = SpeculativeGenerator(generator, speculation), True

    @property
    def places(self) -> int:
        """Maximum number of requests in the generator."""
        return 1 if self._batching is Batching.APART else BATCH_SIZE

    @property
    def draft_reads(self) -> bool:
        """True if a draft model may read a chunk of a prompt in the next step."""
        generator = self.generator
        return isinstance(generator, SpeculativeGenerator) and generator.draft_reads

    def insert(self, request: Request) -> None:
        """Add a request to the generator, with the cached prefix of its prompt."""
        prompt, cache, known = request.prompt, None, 0
        if request.kept:
            cache, known = self.kept.find(prompt)
            if request.stored is not None and request.stored.tokens > known:
                cache, known = request.stored.cache, request.stored.tokens
                request.disk_tokens = known
            request.stored = None
        request.unread, request.known = len(prompt) - known, known
        request.cuts = self._cuts(request)
        starts = [known, *request.cuts]
        segments = [prompt[a:b] for a, b in zip(starts, [*request.cuts, None], strict=True)]
        if isinstance(request.sampler, Seeded):
            request.sampler.go_on_after(request.emitted)
        job = Job(
            segments,
            request.left,
            prompt[:known],
            cache,
            request.sampler,
            request.processors,
            request.ends,
            lambda: request.room,
        )
        request.uid = self.generator.insert(job)
        self.running[request.uid] = request

    def _cuts(self, request: Request) -> tuple[int, ...]:
        """Positions in a prompt at which its KV cache is saved, ascending."""
        places = request.boundaries if request.kept else ()
        if self._rewinds:  # the cache saved at the end can be rewound to the later positions
            places = places[:1]
        places = tuple(place for place in places if place - request.known >= LEAST)
        if request.leads:  # its followers start from the end of the prompt
            places = (*places, len(request.prompt))
        # The last token is never prefilled with the others: it yields the first generated token.
        ends = {min(place, len(request.prompt) - 1) for place in places}
        return tuple(sorted(end for end in ends if end > request.known))

    def note_read(self, piece: Read) -> bool:
        """Record the prefill progress of a prompt; True if the cache of a segment was saved."""
        request = self.running[piece.uid]
        request.unread = piece.total - piece.done
        if request.read is not None:
            request.read(len(request.prompt) - request.unread)
        place = request.known + piece.done
        if not piece.segment_ended or place not in request.cuts:
            return False
        held = self.generator.extract(piece.uid)
        if held is None:
            return False
        cache, tokens = held
        self.kept.keep(tokens, cache, root=request.boundaries[:1] == (place,))
        return True

    def finish(self, last: Generated) -> None:
        """Remove a request that the generator has finished, and cache its prompt and completion."""
        request = self.running.pop(last.uid)
        request.uid = None
        if request.kept and last.cache is not None:
            self.kept.keep(last.tokens, generators.owned(last.cache))

    def leave(self, request: Request) -> None:
        """Remove a request from the generator, if it is still there."""
        uid, request.uid = request.uid, None
        if uid is None or self.running.pop(uid, None) is None:
            return
        with suppress(Exception):  # saving the cache is optional, removing the request is not
            if request.kept and (held := self.generator.extract(uid)) is not None:
                cache, tokens = held
                self.kept.keep(tokens, cache)
        self.generator.remove(uid)

    def restart(self) -> list[Request]:
        """Replace the generator after an error; return the requests that were in the old one."""
        lost = list(self.running.values())
        self.running.clear()
        self.generator.close()
        self.kept.clear()
        self._begin()
        for request in lost:
            request.uid = None
        return lost

    def close(self) -> None:
        """Release the generator and the prompt cache."""
        self.running.clear()
        self.generator.close()
        self.kept.clear()
