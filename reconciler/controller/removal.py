"""Removes downloaded models that no record or instance uses."""

import asyncio
import os
from pathlib import Path

import structlog

from reconciler.controller.actions import Engine
from reconciler.controller.lookups import Lookups
from reconciler.controller.registry import Registry
from reconciler.controller.state import RecordState
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.records import LoadSpec, ModelRef
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
        root = Path(await _real(str(self._cache))) if folder is None else folder
        if entry is not None and not removal.holds(root, entry.path):
            words = (
                f"{key} lies in {entry.path}, outside the Hugging Face cache ({self._cache}); "
                "remove it with the program that put it there"
            )
            raise LoadError(Problem(Reason.NOT_REMOVABLE, words, param="model"))
        if folder is None:
            words = f"Model {key} not found in the Hugging Face cache ({self._cache})"
            raise LoadError(Problem(Reason.MODEL_NOT_FOUND, words, param="model"))
        if users := await self.users(key, folder):
            words = f"{key} is in use by {', '.join(users)}; unload or delete that first"
            raise LoadError(Problem(Reason.MODEL_IN_USE, words, param="model"))
        try:
            with self._lookups.moving(folder):  # in the same step as the check for users
                leaving = await look(removal.set_aside, folder, seconds=LOOK_SECONDS)
            await self._remove_prompts(key, folder)  # now: it cannot be tried again
            freed = await look(removal.remove, leaving, seconds=removal.SECONDS)
        except TimeoutError:
            words = f"the files of {key} are not removed yet; the removal goes on"
            problem = Problem(Reason.NOT_REMOVABLE, words, permanent=False, param="model")
            raise LoadError(problem) from None
        finally:
            self._lookups.forget(ModelRef(key))
            self._registry.wake.set()
        log.info("model removed", model=key, bytes=freed)
        return freed

    async def _remove_prompts(self, key: str, folder: Path) -> None:
        """Remove the model's prompts on disk, which are of no use without it."""
        try:
            await self._engine.remove_prompts(folder)
        except (OSError, TimeoutError) as error:
            log.warning(
                "kept prompts were not removed, or not counted", model=key, reason=str(error)
            )

    async def users(self, key: str, folder: Path) -> list[str]:
        """Return the names of records and instances that use the model in a folder."""
        paths = {path for state in self._registry.states.values() for path in _adapters(state)}
        real = dict(zip(paths, await asyncio.gather(*map(_real, paths)), strict=True))
        names = dict.fromkeys(
            state.record.name
            for state in self._registry.states.values()
            if self._uses(state, key, folder)
            or any(removal.holds(folder, real.get(path, path)) for path in _adapters(state))
        )
        for instance in (*self._engine.instances(), *self._engine.outgoing()):
            if any(removal.holds(folder, path) for path in instance.directories):
                names[instance.name] = None
        return [*names, *(["a download"] if self._downloads.is_fetching(key) else [])]

    def _uses(self, state: RecordState, key: str, folder: Path) -> bool:
        for spec in _specs(state):
            found = self._lookups.checkpoint(spec.ref)
            paths = () if found is None else found.paths
            if any(removal.holds(folder, path) for path in paths):
                return True
            names = [name for name in (spec.model, spec.adapter, spec.draft_model) if name]
            if found is None and any(_may_mean(name, key) for name in names):
                return True
        return removal.holds(folder, state.status.checkpoint)


def _specs(state: RecordState) -> list[LoadSpec]:
    """The spec of a record, and the one that a failed update returns to."""
    record = state.record
    return [spec for spec in (record.spec, record.last_good) if spec is not None]


def _adapters(state: RecordState) -> list[str]:
    """Adapters of a record that are given by absolute path. They may not be looked up yet."""
    named = [spec.adapter for spec in _specs(state)]
    return [path for path in named if path is not None and path.startswith("/")]


async def _real(path: str) -> str:
    """Return a path with links resolved, or as it is if its disk does not respond."""
    try:
        return await look(os.path.realpath, path, seconds=LOOK_SECONDS)
    except (OSError, ValueError, TimeoutError):
        return path


def _may_mean(name: str, key: str) -> bool:
    """True if a name may refer to a model: case-insensitive, in full or by its last part."""
    name, key = name.lower(), key.lower()
    return name in (key, key.rpartition("/")[2])
