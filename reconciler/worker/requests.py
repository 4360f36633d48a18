"""The requests of a session: where each of them is, and the memory reserved for it.

A request waits until there is a slot and memory for its KV cache. Then it is admitted: its prompt
is scored or read from disk if necessary, and it is put into the generator. If an open-ended request
needs more memory than is free, the youngest one waits again.
"""

from reconciler.core.footprint import TILE
from reconciler.worker.batch import Batch
from reconciler.worker.counting import Counter
from reconciler.worker.disk.restoring import Post, Restoring
from reconciler.worker.disk.scope import Scope
from reconciler.worker.kv_budget import KVBudget
from reconciler.worker.pending import Request, Score
from reconciler.worker.reservation import Reservations
from reconciler.worker.scoring import PromptScorer, Scoring
from reconciler.worker.waiting import MAX_WAITING, OverloadedError, Waiting


class Requests:
    """Requests of one session. MLX thread only, except `kv_bytes` and `kept_bytes`."""

    def __init__(
        self,
        waiting: Waiting,
        scoring: Scoring,
        batch: Batch,
        budget: KVBudget,
        context_length: int,
        prompts: Scope | None,
        post: Post,
    ) -> None:
        """`prompts`: the prompts on disk, if there are any; `post` runs a job on the MLX thread."""
        self.waiting, self.scoring, self.batch = waiting, scoring, batch
        self.counter = Counter()
        self._restoring = Restoring(prompts, post, self._insert_restored)
        self._budget = budget
        self._reservations = Reservations(budget, context_length)

    @property
    def busy(self) -> bool:
        """True if a step would do something.

        While a prompt is read from disk, requests that wait for its memory are not stepped.
        """
        waiting = self.waiting and not self._restoring.copy()
        return bool(self.batch.running or self.scoring or waiting)

    @property
    def reads_in_tiles(self) -> bool:
        """True if a prompt with more than one attention tile left is being prefilled."""
        return any(request.unread > TILE for request in self._admitted)

    @property
    def streams(self) -> bool:
        """True if a client receives tokens as they are generated."""
        return any(r.streams and r.emitted and not r.unread for r in self.batch.running.values())

    @property
    def prefills(self) -> bool:
        """True if a prompt is being prefilled, by the model or by a draft model."""
        unread = any(request.unread > 1 for request in self.batch.running.values())
        return unread or bool(self.scoring) or self.batch.draft_reads

    @property
    def kept_bytes(self) -> int:
        """Size of the prompt cache [bytes]."""
        return self.batch.kept.nbytes

    @property
    def kv_bytes(self) -> int:
        """KV cache that running requests have room for [bytes]. Also for other threads."""
        # Of copies, made in one go: requests come and go meanwhile.
        running, restoring = self.batch.running.copy().values(), self._restoring.copy()
        admitted = [*running, *self.scoring, *restoring]
        return self._budget.taken([request.reserved for request in admitted])

    @property
    def bytes_in_use(self) -> int:
        """Memory that admitted requests use beyond the session's reservation [bytes]."""
        return self._budget.in_use(self._lengths())

    @property
    def _admitted(self) -> list[Request]:
        """Requests that have a slot and memory."""
        return [*self.batch.running.values(), *self.scoring, *self._restoring.copy()]

    def _lengths(self, *more: Request) -> list[int]:
        """Reserved tokens of the admitted requests, and of `more`."""
        return [request.reserved for request in (*self._admitted, *more)]

    def _fits(self, *more: Request) -> bool:
        return self._budget.fits(self._lengths(*more))

    def add(self, *requests: Request) -> None:
        """Enqueue requests, all or none.

        Raises `ContextLengthExceededError`, `InsufficientMemoryError` or `OverloadedError` before
        anything is computed.
        """
        for request in requests:
            self._reservations.check(request)
        if len(self.waiting) + len(requests) > MAX_WAITING:
            raise OverloadedError(
                f"{len(self._admitted)} requests are running and "
                f"{len(self.waiting)} of at most {MAX_WAITING} are waiting"
            )
        for request in requests:
            self._reservations.begin(request)
        self.waiting.add(requests)
        self.admit()

    def admit(self) -> None:
        """Admit waiting requests, in order, as far as there are slots and memory."""
        self.waiting.end_following(self._is_to_be_read)
        waiting = self.waiting.ready
        while waiting and len(self._admitted) < self.batch.places:
            request = waiting[0]
            self._reservations.reserve(request)
            if not self._fits(request):
                if self._admitted:
                    return
                # Memory that was free when it arrived is in use now: it may be too long even alone.
                if (problem := self._reservations.reserve_alone(request)) is not None:
                    waiting.popleft()
                    request.fail(problem)
                    continue
            waiting.popleft()
            try:
                if request.score is not None:
                    self._begin_scoring(request, request.score)
                else:
                    self.insert(request)
            except Exception as error:  # noqa: BLE001  only this request fails
                request.fail(error)

    def _is_to_be_read(self, request: Request) -> bool:
        """True if a request has yet to prefill its prompt."""
        return not request.emitted and (request in self._admitted or request in self.waiting)

    def _begin_scoring(self, request: Request, score: Score) -> None:
        """Queue a prompt for scoring, which prefills all of it, without cached tokens."""
        self.scoring.add(request, score)
        self.counter.count_prompt(request, 0)
        self.trim()

    def end_scoring(self, request: Request, score: Score, scorer: PromptScorer) -> None:
        """Report a prompt that has been scored, and generate its tokens."""
        if request.kept and scorer.known:
            self.batch.kept.keep(scorer.known, scorer.cache)
        score.on_scores(scorer.found)
        request.score = None
        if score.alone:
            self.trim()
        else:
            self.insert(request)

    def insert(self, request: Request) -> None:
        """Add a request to the generator, or begin to read its prompt from disk."""
        if self._restoring.begin(request, self.batch.kept.longest):
            self.trim()
            return
        self.batch.insert(request)
        self.counter.count_prompt(request, request.known)
        self.trim()

    def _insert_restored(self, request: Request) -> None:
        """Add a request to the generator whose prompt was read from disk, or could not be."""
        try:
            self.batch.insert(request)
            self.counter.count_prompt(request, request.known)
        except Exception as error:  # noqa: BLE001  only this request fails
            request.fail(error)
        self.trim()
        self.admit()

    def leave(self, request: Request) -> None:
        """Remove a request from the generator."""
        self.batch.leave(request)
        self.trim()

    def cancel(self, request: Request) -> None:
        """Cancel a request, if it is still there."""
        if request.uid is not None:
            self.leave(request)
        elif not self._restoring.remove(request) and not self.waiting.remove(request):
            self.scoring.remove(request)
        self.admit()

    def end_alone(self, request: Request, others: int) -> str | None:
        """The finish reason of a running request that has no memory left; None if it goes on.

        `others`: number of other running requests; with some, one of them waits again instead.
        """
        return None if others else self._reservations.end_alone(request)

    def grow(self) -> None:
        """Reserve more tokens for open-ended requests; if none are free, preempt the youngest."""
        running = self.batch.running
        for request in list(running.values()):
            if request.uid is None or not self._reservations.is_used_up(request):
                continue
            self._reservations.extend(request)
            while len(running) > 1 and not self._fits():
                youngest = next(reversed(running.values()))
                self.batch.leave(youngest)
                youngest.prompt = youngest.prompt + youngest.generated
                youngest.generated = []
                self.waiting.ready.appendleft(youngest)
            if not self._fits():  # it runs alone, and memory was recalled
                self._reservations.limit(request)
            self.trim()

    def trim(self) -> None:
        """Trim the prompt cache to the memory that running requests leave free."""
        self.batch.kept.trim(self._budget.left(self._lengths()))

    def close(self) -> None:
        """Release the generator; requests that are running or waiting fail."""
        gone = [*self._admitted, *self.waiting]
        self.waiting.clear()
        self.scoring.clear()
        self._restoring.clear()
        self.batch.close()
        for request in gone:
            request.fail(RuntimeError("the instance was unloaded"))
