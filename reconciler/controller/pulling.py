"""Downloads that callers ask for: begun, unless the model is there and the hub adds nothing."""

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
    """A job; None: the model is there, and the hub was not asked or not reached."""

    job: Job | None
    message: str | None = None
    """Where the model is, or why no newer version was looked for."""


async def pull(downloads: Downloads, lookups: Lookups, ref: ModelRef) -> Pulled:
    """Ask the hub, except for a model outside its cache and for a commit that is there.

    If the hub cannot be reached, a model that is there is enough. Raises `LoadError`.
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
    """The model on disk, if it can be loaded; its letter case does not matter."""
    try:
        found = await lookups.find(ref)
    except LoadError:
        return None
    return found if found.key.lower() == ref.model.lower() else None
