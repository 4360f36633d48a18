"""What is known of a model before it is loaded: its files' headers, and the shapes that it shows.

Files are read here; shapes are seen by the spare worker, which builds the model without reading
its weights. Both are kept for as long as the files stay as they are.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import structlog

from reconciler.core.errors import LoadError, Problem
from reconciler.core.facts import Checkpoint, Shapes
from reconciler.core.records import ModelRef
from reconciler.models.catalog import Catalog, Listed

log = structlog.get_logger()


class Builder(Protocol):
    """What builds models."""

    async def shapes(self, checkpoint: Checkpoint) -> Shapes: ...


PATIENCE_SECONDS = 0.25
"""That the loop waits for shapes. Longer, and a spare worker is just being started: other records
are seen to meanwhile."""


ATTEMPTS = 2
"""To see the shapes of a model: one whose building ends workers must not do so for ever."""


class Inspector:
    """Finds checkpoints and completes what is known of them. Used on the event loop only."""

    def __init__(self, catalog: Catalog, builder: Builder, on_seen: Callable[[], None]) -> None:
        """`on_seen` is called when shapes were seen that somebody did not wait for."""
        self._catalog = catalog
        self._builder = builder
        self._on_seen = on_seen
        self._seen: dict[str, tuple[str, Shapes | None]] = {}
        """By path: the fingerprint of the files, and what was seen; None: it cannot be built."""
        self._failed: dict[str, int] = {}
        """By path: how often in a row building failed in a way that may pass."""
        self._looks: dict[str, asyncio.Task[Checkpoint]] = {}
        """By path."""

    async def close(self) -> None:
        """Look no further."""
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    async def find(self, ref: ModelRef) -> Checkpoint:
        """The checkpoint that `ref` names. Raises `LoadError` as `Catalog.find`."""
        return await self._complete(await asyncio.to_thread(self._catalog.find, ref))

    async def find_all(
        self, refs: Iterable[ModelRef], patience: float | None = None
    ) -> dict[ModelRef, Checkpoint | Problem]:
        """`find` for many; what takes longer than `patience` seconds is left out."""
        found = dict(await asyncio.to_thread(self._catalog.find_all, refs))
        looks = {
            ref: asyncio.ensure_future(self._complete(checkpoint))
            for ref, checkpoint in found.items()
            if isinstance(checkpoint, Checkpoint)
        }
        if looks:
            await asyncio.wait(looks.values(), timeout=patience)
        for ref, look in looks.items():
            if look.done():
                found[ref] = look.result()
            else:
                look.cancel()
                del found[ref]
        return found

    async def listed(self) -> tuple[Listed, ...]:
        """The models on disk, as far as their files tell."""
        return await asyncio.to_thread(self._catalog.listed)

    async def _complete(self, checkpoint: Checkpoint) -> Checkpoint:
        fingerprint, shapes = self._seen.get(checkpoint.path, (None, None))
        if fingerprint == checkpoint.fingerprint:
            return _with_shapes(checkpoint, shapes)
        look = self._looks.get(checkpoint.path)
        if look is None:
            look = self._looks[checkpoint.path] = asyncio.create_task(self._look(checkpoint))
        # Whoever waits may go away; what is seen is everybody's.
        seen = await asyncio.shield(look)
        if seen.fingerprint != checkpoint.fingerprint:  # the files changed meanwhile
            return await self._complete(checkpoint)
        return _with_shapes(checkpoint, seen.shapes)

    async def _look(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with its shapes, as far as they can be seen."""
        shapes, path = None, checkpoint.path
        try:
            shapes = await self._builder.shapes(checkpoint)
            failed = 0
        except LoadError as error:
            why = error.problem.message
            log.warning("shapes cannot be seen", checkpoint=path, reason=why)
            failed = ATTEMPTS if error.problem.permanent else self._failed.get(path, 0) + 1
        finally:
            del self._looks[path]
            self._on_seen()
        self._failed[path] = failed
        if failed in (0, ATTEMPTS):
            self._seen[path] = (checkpoint.fingerprint, shapes)
            del self._failed[path]
        return _with_shapes(checkpoint, shapes)


def _with_shapes(checkpoint: Checkpoint, shapes: Shapes | None) -> Checkpoint:
    """The checkpoint as the built model shows it; its files may hold weights in another form."""
    if shapes is None:
        return checkpoint
    weights = shapes.weights or checkpoint.weights_bytes
    return replace(checkpoint, shapes=shapes, weights_bytes=weights)
