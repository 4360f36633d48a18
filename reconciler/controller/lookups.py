"""What the files of models say, looked up beside the passes.

A pass never waits for a disk: it plans with what is known, and a look that ends wakes the next one.
A look has a deadline, and what it raises is the problem of its model alone. Models whose look
failed as a batch are looked for one by one from then on. A look during which the files were known
to change, or a download ended, is not believed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from reconciler.controller.clock import Clock
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.records import ModelRef
from reconciler.models.download import Downloads, Job

T = TypeVar("T")

log = structlog.get_logger()

RECHECK_SECONDS = 30.0
"""Between looks at a model's files: they may have been fixed, or changed after the load."""

PATIENCE_SECONDS = 0.25
"""A look that takes no longer is not worth a report; and what takes longer leaves its batch."""

LOOK_SECONDS = 60.0
"""Deadline of a look; building a model without its weights may take half of that."""


class Resolver(Protocol):
    """Finds checkpoints."""

    async def find(self, ref: ModelRef) -> Checkpoint: ...
    async def find_all(
        self, refs: Iterable[ModelRef], patience: float | None = None
    ) -> Mapping[ModelRef, Checkpoint | Problem]: ...


@dataclass(frozen=True)
class CachedLookup:
    """What a look found, and the monotonic time at which it began."""

    checkpoint: Checkpoint | Problem
    at: float


@dataclass
class _Look:
    """A look under way."""

    began: float
    ended: Job | None
    """The last download of the model when it began, if that had ended."""
    stale: bool = False
    """True if the files changed since it began."""


class Lookups:
    """By model. Used on the event loop only."""

    def __init__(
        self,
        resolver: Resolver,
        downloads: Downloads,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when a look has ended."""
        self._resolver = resolver
        self._downloads = downloads
        self._clock = clock
        self._wake = wake
        self._cached: dict[ModelRef, CachedLookup] = {}
        self._looks: dict[ModelRef, _Look] = {}
        self._alone: set[ModelRef] = set()
        """Models that made a batch fail."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Look no further."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def found(self) -> dict[ModelRef, Checkpoint | Problem]:
        """What is known."""
        return {ref: cached.checkpoint for ref, cached in self._cached.items()}

    def checkpoint(self, ref: ModelRef) -> Checkpoint | None:
        """The checkpoint that was found for a model, if one was."""
        cached = self._cached.get(ref)
        found = cached.checkpoint if cached is not None else None
        return found if isinstance(found, Checkpoint) else None

    def is_fresh(self, ref: ModelRef) -> bool:
        """True if a first look is under way that may end in a moment."""
        look = self._looks.get(ref)
        return look is not None and self._clock.monotonic() - look.began < PATIENCE_SECONDS

    def note(self, ref: ModelRef, checkpoint: Checkpoint) -> None:
        """Somebody else has found it just now."""
        self._cached[ref] = CachedLookup(checkpoint, self._clock.monotonic())

    def forget(self, base: ModelRef) -> None:
        """The files of a model have changed: what is known of it, with any adapter, is stale."""
        for ref in [ref for ref in self._cached if ref.base == base]:
            del self._cached[ref]
        for ref, look in self._looks.items():
            look.stale = look.stale or ref.base == base

    def refresh(self, wanted: Mapping[ModelRef, float], downloadable: Collection[ModelRef]) -> None:
        """Begin looks that are due, and forget models that are not wanted.

        `wanted` has the monotonic time since when each is asked for; those in `downloadable` are
        fetched where they are not on disk.
        """
        now = self._clock.monotonic()
        for ref in self._cached.keys() - wanted.keys():
            del self._cached[ref]
        self._alone &= wanted.keys()
        due = [
            ref for ref, since in wanted.items() if ref not in self._looks and self._due(ref, since)
        ]
        together = [ref for ref in due if ref not in self._alone]
        for refs in ([together] if together else []) + [[ref] for ref in due if ref in self._alone]:
            self._begin(refs, frozenset(downloadable), now, PATIENCE_SECONDS)

    def _due(self, ref: ModelRef, since: float) -> bool:
        cached = self._cached.get(ref)
        if cached is None or cached.at < since:
            return True
        return self._clock.monotonic() - cached.at >= RECHECK_SECONDS

    def _begin(
        self,
        refs: list[ModelRef],
        downloadable: frozenset[ModelRef],
        now: float,
        patience: float | None,
    ) -> None:
        for ref in refs:
            self._looks[ref] = _Look(now, self._downloads.ended(ref.base))
        task = asyncio.create_task(self._look(refs, downloadable, patience))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(
        self, refs: list[ModelRef], downloadable: frozenset[ModelRef], patience: float | None
    ) -> None:
        found: Mapping[ModelRef, Checkpoint | Problem] = {}
        try:
            looking = self._resolver.find_all(refs, patience)
            found = await within(self._clock, LOOK_SECONDS, looking)
        except Exception as error:  # noqa: BLE001  it is the problem of what is looked for
            self._alone.update(refs)
            if len(refs) == 1:
                found = {refs[0]: _problem(refs[0], error)}
        again: list[ModelRef] = []
        for ref in refs:
            look = self._looks.pop(ref)
            if look.stale or self._downloads.ended(ref.base) is not look.ended:
                continue
            if ref not in found:
                again.append(ref)
                continue
            checkpoint = found[ref]
            missing = (
                isinstance(checkpoint, Problem) and checkpoint.reason is Reason.MODEL_NOT_FOUND
            )
            if missing and ref in downloadable:
                checkpoint = self._downloads.missing(ref.base)
            self._cached[ref] = CachedLookup(checkpoint, look.began)
        for ref in again:  # it takes longer than others wait, or made its batch fail
            self._begin([ref], downloadable, self._clock.monotonic(), None)
        self._wake()

    async def find(self, ref: ModelRef) -> Checkpoint:
        """The checkpoint that `ref` names, looked for now. Raises `LoadError`."""
        try:
            return await within(self._clock, LOOK_SECONDS, self._resolver.find(ref))
        except LoadError:
            raise
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            stopping = Problem(Reason.STOPPING, "the daemon is stopping", permanent=False)
            raise LoadError(stopping) from None
        except Exception as error:
            raise LoadError(_problem(ref, error)) from error

    async def find_all(self, refs: Iterable[ModelRef]) -> dict[ModelRef, Checkpoint | Problem]:
        """What is found for each, looked for now."""

        async def found(ref: ModelRef) -> Checkpoint | Problem:
            try:
                return await self.find(ref)
            except LoadError as error:
                return error.problem

        wanted = list(dict.fromkeys(refs))
        try:
            looking = self._resolver.find_all(wanted)
            return dict(await within(self._clock, LOOK_SECONDS, looking))
        except Exception:  # noqa: BLE001  one of them is to blame
            return dict(zip(wanted, await asyncio.gather(*map(found, wanted)), strict=True))


async def within(clock: Clock, seconds: float, work: Awaitable[T]) -> T:
    """What `work` returns. Raises `TimeoutError` if it takes longer than `seconds` of `clock`."""
    task = asyncio.ensure_future(work)
    late = False

    def end() -> None:
        nonlocal late
        late = task.cancel()

    timer = clock.call_later(seconds, end)
    try:
        return await task
    except asyncio.CancelledError:
        if late:
            raise TimeoutError from None
        task.cancel()
        raise
    finally:
        timer.cancel()


def _problem(ref: ModelRef, error: Exception) -> Problem:
    """Why a model cannot be looked for; it may pass."""
    if isinstance(error, TimeoutError):
        words = f"looking for {ref.model} took longer than {LOOK_SECONDS:g} s; is its disk there?"
    else:
        log.error("a model cannot be looked for", model=ref.model, exc_info=error)
        words = f"looking for {ref.model} failed: {Problem.of_error(error).message}"
    return Problem(Reason.INVALID_CHECKPOINT, words, permanent=False, param="model")
