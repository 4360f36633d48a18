"""Loop -> book, and whoever waits: what became of every record.

Statuses are derived anew after each pass and written where they changed; who waits for a record is
answered; a wish by HTTP that cannot be is undone.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import replace

import structlog

from reconciler.controller.book import Book, Entry
from reconciler.core.conditions import derive
from reconciler.core.errors import Cause, Problem
from reconciler.core.plan import Action, Kind, Why
from reconciler.core.records import HTTP, Instance, Outcome, Record, Status
from reconciler.store import UnwritableError

log = structlog.get_logger()

_UNDECIDED = (
    Why.QUEUED,
    Why.READING_CHECKPOINT,
    Why.DOWNLOADING,
    Why.WAITING_FOR_MEMORY,
    Why.IDLE,
)
"""Waits that say nothing about the wish itself."""


class Reporter:
    """Says and writes down what is so. Used on the event loop only."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def report(self, loaded: Mapping[str, Instance], actions: Mapping[str, Action]) -> None:
        """Derive every status anew, and answer whoever waited for one.

        `actions` are what is done about each record, or else what the plan says of it.
        """
        for name, entry in list(self._book.entries.items()):
            action = actions.get(name)
            instance = loaded.get(name)
            try:
                if instance is not None:
                    self._note_good(entry.record, instance)
            except UnwritableError as error:  # nobody may be told that it stays loaded
                self.give_up(entry, error.problem)
            before, record = entry.status, entry.record
            on_disk = self._book.checkpoint(record.spec.ref)
            status = derive(record, before, instance, action, self._book.clock.utc(), on_disk)
            if status != before or entry.unsaved:
                self._observe(entry, status, action)
            if status.ready:
                entry.succeed()
            elif action is not None and action.problem is not None:
                self.give_up(entry, action.problem)
            elif action is not None and action.kind is Kind.HOLD:
                entry.fail(Problem(Cause.SUSPENDED, f"'{name}' is {action.reason}"))

    def _observe(self, entry: Entry, status: Status, action: Action | None) -> None:
        """Take up a status; what cannot be written of it now is written at a later pass."""
        with contextlib.suppress(UnwritableError):
            self._book.observe(entry, status)
            self._note_outcome(entry.record, status, action)
            entry.unsaved = False

    def _note_good(self, record: Record, instance: Instance) -> None:
        """What is loaded can be loaded: such a record is not provisional any more."""
        good = record.last_good is not None and record.last_good.loads_like(instance.spec)
        if record.provisional or not good:
            self._book.put(replace(record, provisional=False, last_good=instance.spec))

    def _note_outcome(self, record: Record, status: Status, action: Action | None) -> None:
        """Write into the history what became of a wish, once that is known."""
        outcome: Outcome
        if status.ready:
            outcome, words, seconds = "Loaded", "", status.load_time_seconds
        elif action is None or action.acts or action.why in _UNDECIDED:
            return
        elif action.problem is not None:
            outcome, words, seconds = "Failed", action.problem.message, None
        else:
            outcome, words, seconds = "Suspended", action.reason, None
        self._book.store.note_outcome(record, outcome, words, self._book.clock.utc(), seconds)

    def give_up(self, entry: Entry, problem: Problem) -> None:
        """An http wish that failed is undone; a manifest's goes on being tried."""
        told = bool(entry.waiters)
        entry.fail(problem)
        if problem.cause is Cause.STATE_UNWRITABLE and not told:
            return  # a wish that nobody was told has failed can wait
        with contextlib.suppress(UnwritableError):  # then it is undone by a later pass
            self.undo(entry, problem)

    def undo(self, entry: Entry, problem: Problem) -> None:
        """Undo an http wish. Raises `UnwritableError`: then it is still to be undone."""
        record, previous = entry.record, entry.record.last_good
        if record.provisional:
            entry.undone_by = problem
            at = self._book.clock.utc()
            self._book.store.note_outcome(record, "Failed", problem.message, at, None)
            self._book.remove(record.name, problem)
        elif (
            record.owner == HTTP
            and previous is not None
            and not previous.loads_like(record.spec)
            and problem.cause is not Cause.SUSPECTED_HOST_CRASH  # of the record, not of its spec
        ):
            entry.undone_by = problem
            self._book.put(record.with_spec(previous))
            log.info("update undone", name=record.name, reason=problem.message)
        entry.undone_by = None

    def tell_death(self, entry: Entry, problem: Problem, action: Action | None) -> None:
        """A record is not ready from the moment at which its worker's end is known.

        `action` is what is being done about it.
        """
        record = entry.record
        action = action or Action(
            Kind.WAIT, record.name, problem.message, why=Why.BACKING_OFF, problem=problem
        )
        on_disk = self._book.checkpoint(record.spec.ref)
        status = derive(record, entry.status, None, action, self._book.clock.utc(), on_disk)
        with contextlib.suppress(UnwritableError):  # the next pass writes it down
            self._book.observe(entry, status)
