"""Names of models in Ollama's form: with a tag, `latest` by default."""

from reconciler.controller import Controller
from reconciler.core.errors import Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.ollama import without_latest
from reconciler.models.catalog import CatalogEntry

OLLAMA_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}


def local_name(controller: Controller, name: str) -> str:
    """Resolve a name to a model or instance."""
    return name if controller.records_of(name) else without_latest(name)


async def on_disk(controller: Controller, name: str) -> CatalogEntry | None:
    """Find a model on disk by its name. Raises `LoadError` if the disk cannot be read.

    Matches the exact name, else the name without regard to case, else its last part. None if
    several models match.
    """
    entries = await controller.models()
    lowered = name.lower()
    for matches in (
        [entry for entry in entries if entry.key == name],
        [entry for entry in entries if entry.key.lower() == lowered],
        [entry for entry in entries if entry.key.lower().rpartition("/")[2] == lowered],
    ):
        if matches:
            return matches[0] if len(matches) == 1 else None
    return None


def facts_of(entry: CatalogEntry | None) -> Checkpoint | None:
    """Facts from the files of a model; None if it cannot be loaded."""
    return None if entry is None or isinstance(entry.facts, Problem) else entry.facts
