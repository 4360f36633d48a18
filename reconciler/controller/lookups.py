"""Caches facts from model files, looked up concurrently with passes.

A pass never waits for a disk: it plans with cached facts, and a finished lookup wakes the next
pass. A lookup has a deadline, and its errors affect only its own model. Models whose lookup failed
as a batch are looked up one by one from then on. The result of a lookup is discarded if the files
changed or a download ended during it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from reconciler.controller.clock import Clock
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.parts import Part, missing_part, parts_of, problem_of
from reconciler.core.records import ModelRef
from reconciler.models.download import Downloads, Job
from reconciler.models.removal import holds

T = TypeVar("T")

log = structlog.get_logger()

RECHECK_SECONDS = 30.0
"""Interval between lookups of a model's files, which may have been fixed or changed."""

PATIENCE_SECONDS = 0.25
"""Lookups shorter than this are not reported as waits; longer ones leave their batch."""

LOOK_SECONDS = 60.0
"""Deadline of a lookup; building a model without its weights may take half of it."""


class Resolver(Protocol):
    """Finds checkpoints."""

    async def find(self, ref: ModelRef) -> Checkpoint: ...
    async def find_all(
        self, refs: Iterable[ModelRef], patience: float | None = None
    ) -> Mapping[ModelRef, Checkpoint | Problem]: ...
    def forget(self, base: ModelRef) -> None: ...


@dataclass(frozen=True)
class CachedLookup:
    """Result of a lookup, and the monotonic time of its start."""

    checkpoint: Checkpoint | Problem
    at: float


@dataclass
class _Look:
    """A running lookup."""

    began: float
    ended: Mapping[Part, Job | None]
    """The last ended download of each part at the start, if any."""
    stale: bool = False
    """True if the files have changed since the start."""


class Lookups:
    """Cache of lookups by model. Used on the event loop only."""

    def __init__(
        self,
        resolver: Resolver,
        downloads: Downloads,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when a lookup has ended."""
        self._resolver = resolver
        self._downloads = downloads
        self._clock = clock
        self._wake = wake
        self._cached: dict[ModelRef, CachedLookup] = {}
        self._looks: dict[ModelRef, _Look] = {}
        self._alone: set[ModelRef] = set()
        """Models that made a batch fail."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._moving: list[tuple[Path, asyncio.Event]] = []
        """Folders that are being moved away, with the event that ends it."""
        self.moves = 0
        """Number of moves begun. A checkpoint found before the last one may be gone."""

    async def close(self) -> None:
        """Cancel all lookups."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def found(self) -> dict[ModelRef, Checkpoint | Problem]:
        """Return all cached results."""
        return {ref: cached.checkpoint for ref, cached in self._cached.items()}

    def checkpoint(self, ref: ModelRef) -> Checkpoint | None:
        """Return the cached checkpoint of a model, if it was found."""
        cached = self._cached.get(ref)
        found = cached.checkpoint if cached is not None else None
        return found if isinstance(found, Checkpoint) else None

    def is_fresh(self, ref: ModelRef) -> bool:
        """True if a first lookup is running and may end within the patience."""
        look = self._looks.get(ref)
        return look is not None and self._clock.monotonic() - look.began < PATIENCE_SECONDS

    def note(self, ref: ModelRef, checkpoint: Checkpoint) -> None:
        """Cache a checkpoint that a caller has just found."""
        self._cached[ref] = CachedLookup(checkpoint, self._clock.monotonic())

    def forget(self, base: ModelRef) -> None:
        """Drop the results that include a model whose files have changed, as any of their parts."""
        self._resolver.forget(base)
        for ref in [ref for ref in self._cached if base in parts_of(ref).values()]:
            del self._cached[ref]
        for ref, look in self._looks.items():
            look.stale = look.stale or base in parts_of(ref).values()

    @contextmanager
    def moving(self, folder: Path) -> Iterator[None]:
        """Find no checkpoint in a folder while it is moved away: a load of it would fail."""
        for ref in [r for r, c in self._cached.items() if _lies_in(folder, c.checkpoint)]:
            del self._cached[ref]
        move = folder, asyncio.Event()
        self._moving.append(move)
        self.moves += 1
        try:
            yield
        finally:
            self._moving.remove(move)
            move[1].set()

    def _move_of(self, found: Checkpoint | Problem) -> asyncio.Event | None:
        """The end of the move of a checkpoint's folder; None if it is not moved away now."""
        return next((end for folder, end in self._moving if _lies_in(folder, found)), None)

    async def _until_moved(self, found: Checkpoint | Problem) -> bool:
        """Wait while the folder of a checkpoint is moved away; True if it is."""
        end = self._move_of(found)
        if end is not None:
            await end.wait()
        return end is not None

    def refresh(self, wanted: Mapping[ModelRef, float], downloadable: Collection[ModelRef]) -> None:
        """Start due lookups, and drop models that are not wanted.

        `wanted` maps each model to the monotonic time of its request; missing parts of models in
        `downloadable` are downloaded.
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
            self._looks[ref] = _Look(now, self._ended(ref))
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
        except Exception as error:  # noqa: BLE001  becomes the problem of the model
            self._alone.update(refs)
            if len(refs) == 1:
                found = {refs[0]: _problem(refs[0], error)}
        moving = [ref for ref, checkpoint in found.items() if self._move_of(checkpoint)]
        again: list[ModelRef] = []
        for ref in refs:
            if ref in moving:
                continue
            look = self._looks.pop(ref)
            if look.stale or self._ended(ref) != look.ended:
                continue
            if ref not in found:
                again.append(ref)
                continue
            known = self._with_downloads(ref, found[ref], downloadable=ref in downloadable)
            self._cached[ref] = CachedLookup(known, look.began)
        for ref in again:  # it exceeds the patience, or made its batch fail
            self._begin([ref], downloadable, self._clock.monotonic(), None)
        self._wake()
        for ref in moving:
            await self._until_moved(found[ref])
            del self._looks[ref]  # the next pass looks it up again
            self._wake()

    def _ended(self, ref: ModelRef) -> dict[Part, Job | None]:
        return {part: self._downloads.ended(one) for part, one in parts_of(ref).items()}

    def _with_downloads(
        self, ref: ModelRef, found: Checkpoint | Problem, *, downloadable: bool
    ) -> Checkpoint | Problem:
        """Note the parts that are on disk, and download one that is missing."""
        missing = missing_part(found) if isinstance(found, Problem) else None
        if isinstance(found, Problem) and missing is None:
            return found
        for part, one in parts_of(ref).items():
            if part is missing:
                return self._download(part, one) if downloadable else found
            self._downloads.note_found(one)
        return found

    def _download(self, part: Part, one: ModelRef) -> Problem:
        problem = problem_of(part, self._downloads.missing(one))
        if part is Part.MODEL:
            return problem
        return replace(problem, message=f"{part.words} {one.model}: {problem.message}")

    async def find(self, ref: ModelRef) -> Checkpoint:
        """Look up a checkpoint now, bypassing the cache. Raises `LoadError`."""
        while True:
            moves = self.moves
            checkpoint = await self._find(ref)
            if not await self._until_moved(checkpoint) and moves == self.moves:
                return checkpoint

    async def _find(self, ref: ModelRef) -> Checkpoint:
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
        """Look up several checkpoints now, bypassing the cache."""

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
    """Return the result of `work`. Raises `TimeoutError` after `seconds` of `clock`."""
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


def _lies_in(folder: Path, found: Checkpoint | Problem) -> bool:
    if isinstance(found, Problem):
        return False
    return any(holds(folder, path) for path in found.paths)


def _problem(ref: ModelRef, error: Exception) -> Problem:
    """Build the transient problem of a failed lookup."""
    if isinstance(error, TimeoutError):
        words = f"lookup of {ref.model} took longer than {LOOK_SECONDS:g} s; is its disk mounted?"
    else:
        log.error("model lookup failed", model=ref.model, exc_info=error)
        words = f"lookup of {ref.model} failed: {Problem.of_error(error).message}"
    return Problem(Reason.INVALID_CHECKPOINT, words, permanent=False, param="model")
