"""Log of attempts, from which the next start learns about an abnormal end of this run.

An attempt is written in the transaction of the pass that starts it, before it starts; its end, and
the names of loaded instances, in the transaction of the next pass that can write.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from reconciler.controller.clock import Clock
from reconciler.core.plan import Action
from reconciler.core.records import Record
from reconciler.store import Store


@dataclass(frozen=True)
class End:
    """Outcome of an attempt, and its time."""

    outcome: str
    at: datetime


class AttemptLog:
    """Persists attempts and the names of loaded instances. Used on the event loop only."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ends: dict[int, End] = {}
        """Ends of attempts not yet on disk, by attempt."""
        self._loaded: frozenset[str] = frozenset()
        """Names of the instances recorded on disk as loaded."""

    def begin(self, actions: Iterable[tuple[Action, Record | None]]) -> dict[str, int]:
        """Record that actions are about to start; returns the ids of their attempts, by name.

        Raises `UnwritableError`: the actions must not start.
        """
        at = self._clock.utc()
        return {
            a.name: self._store.begin_attempt(a.name, a.kind.value, a.message, at, record)
            for a, record in actions
        }

    def end(self, attempt: int | None, outcome: str) -> None:
        """Record the end of an attempt; None if its start could not be recorded."""
        if attempt is not None:
            self._ends[attempt] = End(outcome, self._clock.utc())

    def is_due(self, loaded: Collection[str]) -> bool:
        """True if anything is not on disk yet."""
        return bool(self._ends) or frozenset(loaded) != self._loaded

    def write(self, loaded: Collection[str]) -> None:
        """Write what is not on disk yet. Raises `UnwritableError`."""
        names = frozenset(loaded)
        for attempt, end in self._ends.items():
            self._store.end_attempt(attempt, end.outcome, end.at)
        if names != self._loaded:
            self._store.note_loaded(names)

    def note_written(self, loaded: Collection[str]) -> None:
        """Record that the changes of `write` are committed."""
        self._ends.clear()
        self._loaded = frozenset(loaded)
