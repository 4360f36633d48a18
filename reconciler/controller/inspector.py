"""What is known of a model before it is loaded: its files' headers, and the shapes that it shows.

Files are read here; shapes are seen by the spare worker, which builds the model without reading
its weights. Both are kept for as long as the files stay as they are.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint, Shapes
from reconciler.core.records import ModelRef
from reconciler.models.catalog import Catalog, Listed

log = structlog.get_logger()


class Builder(Protocol):
    """What builds models."""

    async def shapes(self, checkpoint: Checkpoint) -> Shapes: ...


class Inspector:
    """Finds checkpoints and completes what is known of them."""

    def __init__(self, catalog: Catalog, builder: Builder) -> None:
        self._catalog = catalog
        self._builder = builder
        self._seen: dict[str, tuple[str, Shapes | None]] = {}
        """By path: the fingerprint of the files, and what was seen; None: it cannot be built."""

    async def find(self, ref: ModelRef) -> Checkpoint:
        """The checkpoint that `ref` names. Raises `LoadError` as `Catalog.find`."""
        return await self._complete(await asyncio.to_thread(self._catalog.find, ref))

    async def find_all(self, refs: Iterable[ModelRef]) -> Mapping[ModelRef, Checkpoint | Problem]:
        """`find` for many."""
        found = dict(await asyncio.to_thread(self._catalog.find_all, refs))
        for ref, checkpoint in found.items():
            if isinstance(checkpoint, Checkpoint):
                found[ref] = await self._complete(checkpoint)
        return found

    async def listed(self) -> tuple[Listed, ...]:
        """The models on disk, as far as their files tell."""
        return await asyncio.to_thread(self._catalog.listed)

    async def _complete(self, checkpoint: Checkpoint) -> Checkpoint:
        fingerprint, shapes = self._seen.get(checkpoint.path, (None, None))
        if fingerprint != checkpoint.fingerprint:
            try:
                shapes = await self._builder.shapes(checkpoint)
            except LoadError as error:
                shapes = None
                why = error.problem.message
                log.warning("shapes cannot be seen", checkpoint=checkpoint.path, reason=why)
                if error.problem.cause is not Cause.LOAD_FAILED:  # another look may tell more
                    return checkpoint
            self._seen[checkpoint.path] = (checkpoint.fingerprint, shapes)
        return replace(checkpoint, shapes=shapes)
