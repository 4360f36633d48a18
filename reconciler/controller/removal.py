"""Removes downloaded models that no record or instance uses."""

from collections.abc import Iterator
from pathlib import Path

import structlog

from reconciler.controller.actions import Engine
from reconciler.controller.lookups import Lookups
from reconciler.controller.registry import Registry
from reconciler.controller.state import RecordState
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.records import ModelRef
from reconciler.host.looks import look
from reconciler.models import removal
from reconciler.models.catalog import CatalogEntry
from reconciler.models.download import Downloads

log = structlog.get_logger()

LOOK_SECONDS = 10.0
"""Time limit of a lookup in the cache, which may be on a disk that hangs."""


class Removal:
    """Removes models. Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        engine: Engine,
        downloads: Downloads,
        hub_cache: Path,
    ) -> None:
        """Only models in `hub_cache` are removed."""
        self._registry = registry
        self._lookups = lookups
        self._engine = engine
        self._downloads = downloads
        self._cache = hub_cache

    async def remove(self, key: str, entry: CatalogEntry | None) -> int:
        """Remove a model from the Hugging Face cache; returns the freed bytes.

        `entry` is the catalog's entry for that key. Raises `LoadError`: `ModelNotFound`,
        `ModelInUse`, `NotRemovable`.
        """
        try:
            folder = await look(removal.folder_of, self._cache, key, seconds=LOOK_SECONDS)
        except (OSError, TimeoutError) as error:
            words = f"the Hugging Face cache ({self._cache}) cannot be read: {error}"
            problem = Problem(Reason.NOT_REMOVABLE, words, permanent=False, param="model")
            raise LoadError(problem) from None
        if entry is not None and (folder is None or not removal.holds(folder, entry.path)):
            words = (
                f"{key} lies in {entry.path}, outside the Hugging Face cache ({self._cache}); "
                "remove it with the program that put it there"
            )
            raise LoadError(Problem(Reason.NOT_REMOVABLE, words, param="model"))
        if folder is None:
            words = f"Model {key} not found in the Hugging Face cache ({self._cache})"
            raise LoadError(Problem(Reason.MODEL_NOT_FOUND, words, param="model"))
        if users := list(self.users(key, folder)):
            words = f"{key} is in use by {', '.join(users)}; unload or delete that first"
            raise LoadError(Problem(Reason.MODEL_IN_USE, words, param="model"))
        freed = await look(removal.remove, folder, seconds=removal.SECONDS)
        log.info("model removed", model=key, bytes=freed)
        self._lookups.forget(ModelRef(key))
        self._registry.wake.set()
        return freed

    def users(self, key: str, folder: Path) -> Iterator[str]:
        """Yield the names of records and instances that use the model in a folder."""
        names = dict.fromkeys(
            state.record.name
            for state in self._registry.states.values()
            if self._uses(state, key, folder)
        )
        for instance in (*self._engine.instances(), *self._engine.outgoing()):
            if any(removal.holds(folder, p) for p in (instance.checkpoint, instance.adapter)):
                names[instance.name] = None
        yield from names
        if self._downloads.is_fetching(key):
            yield "a download"

    def _uses(self, state: RecordState, key: str, folder: Path) -> bool:
        record = state.record
        specs = [spec for spec in (record.spec, record.last_good) if spec is not None]
        for spec in specs:
            found = self._lookups.checkpoint(spec.ref)
            adapter = None if found is None or found.adapter is None else found.adapter.path
            if found is not None and any(removal.holds(folder, p) for p in (found.path, adapter)):
                return True
            if any(_may_mean(name, key) for name in (spec.model, spec.adapter) if name):
                return found is None or removal.holds(folder, found.path)
        return removal.holds(folder, state.status.checkpoint)


def _may_mean(name: str, key: str) -> bool:
    """True if a name may refer to a model: case-insensitive, in full or by its last part."""
    name, key = name.lower(), key.lower()
    return name in (key, key.rpartition("/")[2])
