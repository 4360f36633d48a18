"""Downloads requested by callers; skipped if the model on disk is up to date."""

from dataclasses import dataclass
from pathlib import Path

from reconciler.controller.lookups import Lookups
from reconciler.core.errors import LoadError
from reconciler.core.facts import Checkpoint
from reconciler.core.records import ModelRef
from reconciler.models.download import Downloads, Job

NOT_ASKED = "the hub could not be asked for a newer version"


@dataclass(frozen=True)
class Pulled:
    """Result of a pull; `job` is None if the model on disk suffices."""

    job: Job | None
    message: str | None = None
    """Location of the model, or the reason why the hub was not checked for a newer version."""


async def pull(downloads: Downloads, lookups: Lookups, ref: ModelRef) -> Pulled:
    """Pull from the hub, except a model outside the hub cache and a commit that is on disk.

    If the hub cannot be reached, a model on disk suffices. Raises `LoadError`.
    """
    found = await _found(lookups, ref)
    if found is not None and not Path(found.path).is_relative_to(downloads.cache.resolve()):
        return Pulled(None, f"it is in {found.path}; nothing is downloaded over it")
    if found is not None and ref.revision is not None and found.commit == ref.revision:
        return Pulled(None)
    job = downloads.begin(ref)
    await job.known.wait()
    if job.problem is not None:
        if found is not None and job.unreachable:
            return Pulled(None, f"{NOT_ASKED}: {job.problem.message}")
        raise LoadError(job.problem)
    return Pulled(job)


async def _found(lookups: Lookups, ref: ModelRef) -> Checkpoint | None:
    """Return the model on disk, if it can be loaded; names are case-insensitive."""
    try:
        found = await lookups.find(ref)
    except LoadError:
        return None
    return found if found.key.lower() == ref.model.lower() else None
