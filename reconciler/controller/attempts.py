"""What the next start must know if this run ends without a word.

An attempt is written in the transaction of the pass that starts it, before it starts; its end, and
what is loaded, in that of the next pass that can write.
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
    """How an attempt ended, and when."""

    outcome: str
    at: datetime


class AttemptLog:
    """Attempts, and the names of what is loaded. Used on the event loop only."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._ends: dict[int, End] = {}
        """Of attempts whose end is not on disk yet."""
        self._loaded: frozenset[str] = frozenset()
        """Names of the instances that are on disk as loaded."""

    def begin(self, actions: Iterable[tuple[Action, Record | None]]) -> dict[str, int]:
        """Write that actions are about to start; the ids of their attempts, by name.

        Raises `UnwritableError`: then they must not start.
        """
        at = self._clock.utc()
        return {
            a.name: self._store.begin_attempt(a.name, a.kind.value, a.message, at, record)
            for a, record in actions
        }

    def end(self, attempt: int | None, outcome: str) -> None:
        """Note how an attempt ended; None: it could not be written down when it began."""
        if attempt is not None:
            self._ends[attempt] = End(outcome, self._clock.utc())

    def is_due(self, loaded: Collection[str]) -> bool:
        """True if something is not on disk yet."""
        return bool(self._ends) or frozenset(loaded) != self._loaded

    def write(self, loaded: Collection[str]) -> None:
        """Write what is not on disk yet. Raises `UnwritableError`."""
        names = frozenset(loaded)
        for attempt, end in self._ends.items():
            self._store.end_attempt(attempt, end.outcome, end.at)
        if names != self._loaded:
            self._store.note_loaded(names)

    def note_written(self, loaded: Collection[str]) -> None:
        """What `write` wrote is on disk."""
        self._ends.clear()
        self._loaded = frozenset(loaded)
