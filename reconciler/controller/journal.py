"""What the next start must know if this run ends without a word.

An attempt is written down before it starts, and what is loaded as soon as it is; what cannot be
written down is kept until it can be.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from reconciler.controller.book import Book
from reconciler.core import suspicion
from reconciler.core.plan import Action, Kind
from reconciler.core.records import Record
from reconciler.store import UnwritableError


@dataclass(frozen=True)
class End:
    """How an attempt ended, and when."""

    outcome: str
    at: datetime


class Journal:
    """Attempts, what is loaded, and what is suspected of records. Used on the event loop only."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._clock = book.clock
        self._ends: dict[int, End] = {}
        """Of attempts whose end is not on disk yet."""
        self._loaded: frozenset[str] = frozenset()
        """Names of the instances that are on disk as loaded."""
        self._since: dict[str, float] = {}
        """Monotonic time at which each instance was first seen."""

    def begin(self, action: Action, record: Record | None) -> int | None:
        """Note that an action is about to start; the attempt's id.

        None: an unload, which gives back memory whether or not it can be written down.
        Raises `UnwritableError`: then it must not start.
        """
        name, kind, at = action.name, action.kind, self._clock.utc()
        try:
            return self._book.store.begin_attempt(name, kind.value, action.reason, at, record)
        except UnwritableError:
            if kind is Kind.UNLOAD:
                return None
            raise

    def end(self, attempt: int | None, outcome: str, loaded: Collection[str]) -> None:
        """Note how it ended and what is loaded now, in one piece; later, if it cannot be now."""
        if attempt is None:
            return
        names, at = frozenset(loaded), self._clock.utc()
        try:
            self._book.store.end_attempt(attempt, outcome, at, names)
        except UnwritableError:
            self._ends[attempt] = End(outcome, at)
        else:
            self._loaded = names

    def interrupt(self, attempt: int | None) -> None:
        """Note that a stop of the daemon ended it; nobody is to blame."""
        self.end(attempt, "interrupted by a stop", self._loaded)

    def settle(self, record: Record, action: Action) -> None:
        """An action went well: the record is there no more, or it is, after all.

        Raises `UnwritableError`: then what was suspected of it still is.
        """
        entry = self._book.entries.get(record.name)
        if entry is None or entry.suspicion is None:
            return
        if entry.record.created_at != record.created_at:
            return
        left = None if action.kind is Kind.UNLOAD else suspicion.after_success(entry.suspicion)
        if left != entry.suspicion:
            self._book.suspect(entry, left)

    def catch_up(self, loaded: Collection[str], now: float) -> None:
        """Write down what is not on disk yet. Raises `UnwritableError`."""
        names = frozenset(loaded)
        self._since = {name: self._since.get(name, now) for name in names}
        for attempt, end in list(self._ends.items()):
            self._book.store.end_attempt(attempt, end.outcome, end.at)
            del self._ends[attempt]
        if names != self._loaded:
            self._book.store.note_loaded(names)
            self._loaded = names
        for name, since in self._since.items():
            entry = self._book.entries.get(name)
            stayed = now - since >= suspicion.FORGIVEN_SECONDS
            if stayed and entry is not None and entry.suspicion is not None:
                self._book.suspect(entry, None)
