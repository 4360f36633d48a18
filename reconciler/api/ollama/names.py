"""Models as Ollama's clients name them: with a tag, `latest` where there is no other."""

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
    """The model or instance that a name stands for."""
    return name if controller.records_of(name) else without_latest(name)


async def on_disk(controller: Controller, name: str) -> CatalogEntry | None:
    """The model of that name, if it is there. Raises `LoadError` where nobody can look.

    As written, else the only one that differs in case alone, or whose last part it is.
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
    """What the files of a model hold; None where they cannot be loaded."""
    return None if entry is None or isinstance(entry.facts, Problem) else entry.facts
