"""Finds checkpoints: facts from file headers, and tensor shapes.

Headers are read here; shapes come from the spare worker, which builds the model without reading its
weights. Both are cached until the files change.
"""

import asyncio
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from reconciler.controller.batches import Batches, Separate
from reconciler.controller.clock import Clock, wait_all
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Shapes
from reconciler.core.parts import parts_of
from reconciler.core.ratelimit import RateLimit
from reconciler.core.records import ModelRef
from reconciler.host.looks import look
from reconciler.models.catalog import Catalog, CatalogEntry

log = structlog.get_logger()


class Builder(Protocol):
    """Builds models."""

    async def shapes(self, checkpoint: Checkpoint) -> Shapes: ...


LOOK_SECONDS = 60.0
"""Deadline of one lookup over all model directories. Paths that hang are abandoned long before;
this bounds a walk through an extremely large tree."""

REPEAT_SECONDS = 3600.0
"""Interval between log lines about lookups that fail for the same reason."""

ATTEMPTS = 2
"""Attempts to determine a model's shapes: building it may crash the worker."""


class CheckpointResolver:
    """Finds and completes checkpoints. Used on the event loop only."""

    def __init__(
        self, catalog: Catalog, builder: Builder, clock: Clock, on_seen: Callable[[], None]
    ) -> None:
        """`on_seen` is called when a result arrives that a caller did not wait for."""
        self._catalog = catalog
        self._builder = builder
        self._clock = clock
        self._on_seen = on_seen
        self._seen: dict[str, tuple[str, Shapes | None]] = {}
        """Fingerprint of the files and shapes by path; no shapes if the model cannot be built."""
        self._failed: dict[str, int] = {}
        """Consecutive transient build failures by path."""
        self._looks: dict[str, asyncio.Task[Checkpoint]] = {}
        """Running builds by path."""
        self._finding = Batches[ModelRef, Checkpoint | Problem | None](self._find_batch)
        """A result of None means that a batch failed: each model is then looked up separately."""
        self._patient = Separate[ModelRef, Checkpoint | Problem](self._find_one)
        self._listing = Batches[None, tuple[CatalogEntry, ...]](self._list)
        self._lines = RateLimit(REPEAT_SECONDS, clock.monotonic)
        self._late: dict[ModelRef, asyncio.Task[Checkpoint | Problem]] = {}
        """Lookups that exceeded a caller's patience."""

    async def close(self) -> None:
        """Cancel all lookups."""
        tasks = [*self._looks.values(), *self._late.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for batches in (self._finding, self._patient, self._listing):
            await batches.close()

    async def find(self, ref: ModelRef) -> Checkpoint:
        """Find the checkpoint that `ref` names. Raises `LoadError` as `Catalog.find`."""
        found = await self._found(ref)
        if isinstance(found, Problem) and not found.permanent:
            found = await self._patient.ask(ref)  # a path does not respond, but may recover
        if isinstance(found, Problem):
            raise LoadError(found)
        return await self._complete(found)

    async def find_all(
        self, refs: Iterable[ModelRef], patience: float | None = None
    ) -> dict[ModelRef, Checkpoint | Problem]:
        """Call `find` for many models; leaves out those that take longer than `patience` seconds.

        Later calls do not wait for these again; `on_seen` is called once a result is available.
        """
        if patience is None:
            refs = list(refs)
            for ref in refs:
                self._late.pop(ref, None)  # this lookup is newer
            answers = await asyncio.gather(*map(self._found_complete, refs))
            return dict(zip(refs, answers, strict=True))
        late = {ref: self._late.pop(ref, None) for ref in refs}
        for ref in [ref for ref, task in self._late.items() if task.done()]:
            del self._late[ref]  # no longer requested
        begun = {
            ref: asyncio.create_task(self._found_complete(ref))
            for ref, task in late.items()
            if task is None
        }
        if begun:
            await wait_all(self._clock, begun.values(), patience)
        found: dict[ModelRef, Checkpoint | Problem] = {}
        for ref, older in late.items():
            task = older or begun[ref]
            if task.done():
                found[ref] = task.result()
            else:
                self._late[ref] = task
                if older is None:
                    task.add_done_callback(lambda _: self._on_seen())
        return found

    def forget(self, base: ModelRef) -> None:
        """Drop late lookups that include a model whose files have changed."""
        for ref in [ref for ref in self._late if base in parts_of(ref).values()]:
            del self._late[ref]

    async def listed(self) -> tuple[CatalogEntry, ...]:
        """List the models on disk, with the facts found in their files."""
        return await self._listing.ask(None)

    async def _found_complete(self, ref: ModelRef) -> Checkpoint | Problem:
        """Find and complete a checkpoint; any exception becomes a problem."""
        try:
            found = await self._found(ref)
            return found if isinstance(found, Problem) else await self._complete(found)
        except Exception as error:
            log.exception("lookup failed unexpectedly", model=ref.model)
            return _failed(ref, error)

    async def _found(self, ref: ModelRef) -> Checkpoint | Problem:
        found = await self._finding.ask(ref)
        return found if found is not None else await self._patient.ask(ref)

    async def _find_batch(
        self, refs: Sequence[ModelRef]
    ) -> dict[ModelRef, Checkpoint | Problem | Exception | None]:
        """Find several checkpoints in one walk over the model directories."""
        try:
            return dict(await look(self._catalog.find_all, refs, seconds=LOOK_SECONDS))
        except TimeoutError as error:
            return {ref: _failed(ref, error) for ref in refs}
        except Exception as error:
            left_out = self._lines.passes(_origin(error))  # lookups run every 30 s
            if left_out is not None:
                log.exception("lookup failed unexpectedly", models=len(refs), left_out=left_out)
            return dict.fromkeys(refs)

    async def _find_one(self, ref: ModelRef) -> Checkpoint | Problem:
        try:
            return await look(self._catalog.find, ref, seconds=LOOK_SECONDS)
        except LoadError as error:
            return error.problem
        except Exception as error:  # noqa: BLE001  becomes the problem of that model
            return _failed(ref, error)

    async def _list(
        self, asked: Sequence[None]
    ) -> dict[None, tuple[CatalogEntry, ...] | Exception]:
        try:
            answer: tuple[CatalogEntry, ...] | Exception = await look(
                self._catalog.listed, seconds=LOOK_SECONDS
            )
        except TimeoutError:
            words = f"listing the models on disk took longer than {LOOK_SECONDS:.0f} s"
            answer = LoadError(Problem(Reason.ENGINE_UNAVAILABLE, words, permanent=False))
        except Exception as error:  # noqa: BLE001  raised to the caller
            answer = error
        return dict.fromkeys(asked, answer)

    async def _complete(self, checkpoint: Checkpoint) -> Checkpoint:
        if checkpoint.draft is not None:
            draft = await self._complete(checkpoint.draft)
            return replace(await self._complete(replace(checkpoint, draft=None)), draft=draft)
        fingerprint, shapes = self._seen.get(checkpoint.path, (None, None))
        if fingerprint == checkpoint.fingerprint:
            return _with_shapes(checkpoint, shapes)
        look = self._looks.get(checkpoint.path)
        if look is None:
            look = self._looks[checkpoint.path] = asyncio.create_task(self._look(checkpoint))
        # A caller may be cancelled; the result is shared.
        seen = await asyncio.shield(look)
        if seen.fingerprint != checkpoint.fingerprint:  # the files changed meanwhile
            return await self._complete(checkpoint)
        return _with_shapes(checkpoint, seen.shapes)

    async def _look(self, checkpoint: Checkpoint) -> Checkpoint:
        """Determine a checkpoint's shapes, if possible."""
        shapes, path = None, checkpoint.path
        try:
            shapes = await self._builder.shapes(checkpoint)
            failed = 0
        except LoadError as error:
            why = error.problem.message
            log.warning("tensor shapes could not be determined", checkpoint=path, reason=why)
            failed = ATTEMPTS if error.problem.permanent else self._failed.get(path, 0) + 1
        except Exception:
            log.exception("tensor shapes could not be determined", checkpoint=path)
            failed = self._failed.get(path, 0) + 1
        finally:
            del self._looks[path]
            self._on_seen()
        self._failed[path] = failed
        if failed in (0, ATTEMPTS):
            self._seen[path] = (checkpoint.fingerprint, shapes)
            del self._failed[path]
        return _with_shapes(checkpoint, shapes)


def _origin(error: Exception) -> tuple[str, str, int]:
    """Identify an error by its type and the line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return type(error).__name__, frame.filename, frame.lineno or 0


def _failed(ref: ModelRef, error: Exception) -> Problem:
    words = f"lookup of {ref.model} failed: {str(error)[:200] or type(error).__name__}"
    return Problem(Reason.INVALID_CHECKPOINT, words, permanent=False, param="model")


def _with_shapes(checkpoint: Checkpoint, shapes: Shapes | None) -> Checkpoint:
    """Return the checkpoint with the built model's shapes and bytes; its files may differ."""
    if shapes is None:
        return checkpoint
    weights = shapes.weights or checkpoint.weights_bytes
    return replace(checkpoint, shapes=shapes, weights_bytes=weights)
