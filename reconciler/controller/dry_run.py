"""What would happen: answered by the reconciler's own plan, and nothing is changed by asking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.controller.source_sync import SourceError
from reconciler.core.errors import Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.plan import Action
from reconciler.core.records import LoadSpec
from reconciler.core.settings import Resolved
from reconciler.core.snapshot import Snapshot


@dataclass(frozen=True)
class PlanRequest:
    """Records that would be put, and records that would be deleted."""

    apply: Sequence[tuple[str, LoadSpec]] = ()
    delete: Sequence[str] = ()
    source: Snapshot | None = None
    """A source as it would be."""


@dataclass(frozen=True)
class Change:
    """Of a record's spec; None: there is no record."""

    name: str
    before: LoadSpec | None
    after: LoadSpec | None


@dataclass(frozen=True)
class DryRun:
    """What the next pass would do, and what it does already."""

    actions: tuple[Action, ...]
    running: tuple[Action, ...]
    changes: tuple[Change, ...]
    refused: Mapping[str, Problem]
    """Specs that would be refused, by name."""
    not_selected: Mapping[str, str] = field(default_factory=dict)
    """What the source would declare for other nodes, and why."""
    source_errors: Sequence[tuple[str, SourceError]] = ()
    """What of the sources is not followed as it stands, each after its source's name."""


@dataclass(frozen=True)
class Estimate:
    """What a load would need, in bytes, and whether it would be admitted now."""

    checkpoint: Checkpoint
    resolved: Resolved
    needed: int
    """On top of what is loaded."""
    free: int
    budget: int

    @property
    def fits(self) -> bool:
        """Whether there is room for it now."""
        return self.needed <= self.free
