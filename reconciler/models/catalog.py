"""Identifier (`publisher/name` or `name`) -> a checkpoint, in the first place that has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.models.checkpoint import read_facts
from reconciler.models.places import Place


@dataclass(frozen=True)
class Listed:
    """A model that is there: its identifier, and its facts or why it cannot be loaded."""

    key: str
    facts: Checkpoint | Problem


class Catalog:
    """The checkpoints in some places. Blocking: call it off the event loop."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._places = tuple(places)

    def find(self, identifier: str) -> Checkpoint:
        """The checkpoint that `identifier` names, in the first place that holds it.

        Raises `LoadError`: `ModelNotFound`, or `InvalidCheckpoint` for one that cannot load.
        """
        parts = tuple(identifier.split("/"))
        # Only names can be joined to a directory: nothing absolute, nothing that climbs out.
        if len(parts) <= 2 and all(p not in ("", ".", "..") and "\0" not in p for p in parts):
            for place in self._places:
                path = place.find(parts)
                if path is not None:
                    return read_facts(path.resolve())
        where = ", ".join(str(place.root) for place in self._places)
        message = f"Model {identifier} not found in downloaded models (looked in {where})"
        raise LoadError(Problem(Cause.MODEL_NOT_FOUND, message, param="model"))

    def list(self) -> tuple[Listed, ...]:
        """Every model that is there, by identifier; the first place that holds it wins."""
        found: dict[str, Listed] = {}
        for place in self._places:
            for key, path in place.all():
                if key not in found:
                    found[key] = Listed(key, _facts(path))
        return tuple(found[key] for key in sorted(found))


def _facts(path: Path) -> Checkpoint | Problem:
    try:
        return read_facts(path.resolve())
    except LoadError as error:
        return error.problem
