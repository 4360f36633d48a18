"""Identifier -> a checkpoint on disk: `publisher/name` or `name` under a model directory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.models.checkpoint import read_facts


@dataclass(frozen=True)
class Listed:
    """A model that is there: its identifier, and its facts or why it cannot be loaded."""

    key: str
    facts: Checkpoint | Problem


class Catalog:
    """The checkpoints under some directories. Blocking: call it off the event loop."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)

    def find(self, identifier: str) -> Checkpoint:
        """The checkpoint that `identifier` names, in the first directory that holds it.

        Raises `LoadError`: `ModelNotFound`, or `InvalidCheckpoint` for one that cannot load.
        """
        parts = identifier.split("/")
        # Only names can be joined to a directory: nothing absolute, nothing that climbs out.
        if len(parts) <= 2 and all(p not in ("", ".", "..") and "\0" not in p for p in parts):
            for directory in self._directories:
                path = directory.joinpath(*parts)
                if (path / "config.json").is_file():
                    return read_facts(path.resolve())
        where = ", ".join(str(d) for d in self._directories)
        message = f"Model {identifier} not found in downloaded models (looked in {where})"
        raise LoadError(Problem(Cause.MODEL_NOT_FOUND, message, param="model"))

    def list(self) -> tuple[Listed, ...]:
        """Every model that is there, by identifier; the first directory that holds it wins."""
        found: dict[str, Listed] = {}
        for directory in self._directories:
            for path in _checkpoints(directory):
                key = path.relative_to(directory).as_posix()
                if key not in found:
                    found[key] = Listed(key, _facts(path))
        return tuple(found[key] for key in sorted(found))


def _checkpoints(directory: Path) -> Iterator[Path]:
    for pattern in ("*/config.json", "*/*/config.json"):
        for config in directory.glob(pattern):
            yield config.parent


def _facts(path: Path) -> Checkpoint | Problem:
    try:
        return read_facts(path.resolve())
    except LoadError as error:
        return error.problem
