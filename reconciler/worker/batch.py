"""The requests of a session that have a place in its generator, and the prompts kept of them.

What a request leaves in the KV cache, at the ends of segments of its prompt and at its own end, is
kept for prompts that begin alike. The session trims what is kept to the memory that is free.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mlx_lm.models.cache import make_prompt_cache

from reconciler.worker import generators
from reconciler.worker.generators import Batching, Generated, Job, Read
from reconciler.worker.pending import Request
from reconciler.worker.prompt_cache import PromptCache, always_rewindable
from reconciler.worker.sampling import Seeded

BATCH_SIZE = 32
"""Requests that generate together; more wait for a place. mlx-lm's default."""


class Batch:
    """A generator, its requests and the kept prompts. Used on the MLX thread only."""

    def __init__(
        self, model: Any, prefill_step: int, ends: Sequence[int], batching: Batching
    ) -> None:
        """`prefill_step`: most tokens of a piece of a prompt; `ends`: tokens that end an answer."""
        self._model, self._prefill_step, self._ends = model, prefill_step, ends
        self._batching = batching
        self.running: dict[int, Request] = {}
        """By their place in the generator, the oldest first."""
        self._begin()

    def _begin(self) -> None:
        """A fresh generator, and no kept prompts."""
        self.generator = generators.make(
            self._batching,
            self._model,
            ends=self._ends,
            prefill_step=self._prefill_step,
            batch_size=BATCH_SIZE,
        )
        self.kept = PromptCache()
        self._rewinds = always_rewindable(make_prompt_cache(self._model))

    @property
    def places(self) -> int:
        """Requests that can have a place at once."""
        return 1 if self._batching is Batching.APART else BATCH_SIZE

    def insert(self, request: Request) -> None:
        """Give a request its place in the generator, with what is known of its prompt."""
        prompt, cache, known = request.prompt, None, 0
        if request.kept:
            cache, known = self.kept.find(prompt)
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
        )
        request.uid = self.generator.insert(job)
        self.running[request.uid] = request

    def _cuts(self, request: Request) -> tuple[int, ...]:
        """Places in a prompt, ascending, at which its cache is kept."""
        places = request.boundaries if request.kept else ()
        if self._rewinds:  # what is kept at the end serves as well, once it is there
            places = places[:1]
        if request.leads:  # those that follow begin there
            places = (*places, len(request.prompt))
        # The last token is never read with the others: the first one generated comes from it.
        ends = {min(place, len(request.prompt) - 1) for place in places}
        return tuple(sorted(end for end in ends if end > request.known))

    def note_read(self, piece: Read) -> bool:
        """Note how far a prompt is read; True if the cache at the end of a segment is kept."""
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
        """Note that the generator has ended a request, and keep its prompt and answer."""
        request = self.running.pop(last.uid)
        request.uid = None
        if request.kept and last.cache is not None:
            self.kept.keep(last.tokens, generators.owned(last.cache))

    def leave(self, request: Request) -> None:
        """Take a request out of the generator, if it is still there."""
        uid, request.uid = request.uid, None
        if uid is None or self.running.pop(uid, None) is None:
            return
        with suppress(Exception):  # it leaves in any case; what cannot be kept is not
            if request.kept and (held := self.generator.extract(uid)) is not None:
                cache, tokens = held
                self.kept.keep(tokens, cache)
        self.generator.remove(uid)

    def restart(self) -> list[Request]:
        """Begin with a fresh generator after an error; the requests that lost their place."""
        lost = list(self.running.values())
        self.running.clear()
        self.generator.close()
        self._begin()
        for request in lost:
            request.uid = None
        return lost

    def close(self) -> None:
        """Let go of the generator."""
        self.running.clear()
        self.generator.close()
