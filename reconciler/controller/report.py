"""Turns the results of a pass into statuses, history and replies to waiters.

`judge` derives the report of a record, `write` persists it inside the pass's one transaction, and
`take` applies it after the commit. If it cannot be written, observed state is applied anyway and
written by a later pass; changes of desired state wait for that pass.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import structlog

from reconciler.controller.registry import Registry
from reconciler.controller.state import RecordState, Stored
from reconciler.core.conditions import broken, derive, pending
from reconciler.core.errors import Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.plan import Action, Kind
from reconciler.core.records import Instance, Outcome, Record, Status

log = structlog.get_logger()

_UNDECIDED = (
    Reason.QUEUED,
    Reason.READING_CHECKPOINT,
    Reason.DOWNLOADING,
    Reason.WAITING_FOR_MEMORY,
    Reason.IDLE,
)
"""Reasons for waiting that imply nothing about the spec itself."""


@dataclass(frozen=True)
class Settled:
    """Outcome of a generation, for the history."""

    outcome: Outcome
    message: str
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """Results of a pass for one record."""

    state: RecordState
    action: Action | None
    status: Status
    record: Record
    """New version of the record: noted as good, or with its previous spec restored."""
    settled: Settled | None = None
    answer: Problem | None = None
    """Problem with which its waiters fail."""
    undo: Problem | None = None
    """Problem because of which its spec is rolled back, now or once that can be persisted."""

    @property
    def removed(self) -> bool:
        """True if its first load has failed, so that the record is removed."""
        return self.undo is not None and self.record.provisional

    @property
    def changed(self) -> bool:
        """True if anything must be written."""
        state = self.state
        return (
            self.removed
            or self.record is not state.stored.record
            or self.status != state.stored.status
            or state.crashes != state.stored.crashes
        )


def judge(
    state: RecordState,
    instance: Instance | None,
    action: Action | None,
    at: datetime,
    on_disk: Checkpoint | None,
    unwritable: Problem | None,
) -> Report:
    """Derive the report of one record.

    `action` acts on the record, or says why nothing does; `on_disk` is its checkpoint, if known;
    `unwritable` is the problem that prevents writing, if any.
    """
    status = derive(state.record, state.status, instance, action, at, on_disk)
    settled = _settled(status, action)
    problem = answer = None
    if action is not None and not status.ready:
        problem = answer = action.problem
        if answer is None and action.kind is Kind.HOLD:
            answer = Problem(Reason.SUSPENDED, f"'{state.record.name}' is {action.message}")
    noted = state.record if instance is None else state.noted_good(instance)
    undo = state.undo or problem
    if undo is None and unwritable is not None and noted is not state.record and state.awaited:
        answer = undo = unwritable  # its waiters must not be promised that it stays loaded
    undoing = state.undo is not None or unwritable is not None
    record = state.record if undoing else noted
    if undo is None or not state.is_undone_by(undo, record):
        record = noted if unwritable is None else state.record
        return Report(state, action, status, record, settled, answer)
    if unwritable is None and not record.provisional and record.last_good is not None:
        record, status = record.with_spec(record.last_good), pending(status, at)
    settled = Settled("Failed", undo.message)
    return Report(state, action, status, record, settled, answer or undo, undo)


def judge_safely(
    state: RecordState,
    instance: Instance | None,
    action: Action | None,
    at: datetime,
    on_disk: Checkpoint | None,
    unwritable: Problem | None,
) -> Report:
    """Call `judge`; an unexpected error becomes a condition of that record alone."""
    try:
        return judge(state, instance, action, at, on_disk, unwritable)
    except Exception as error:
        problem = Problem.of_error(error)
        before = state.status.condition("Ready")
        if before is None or before.message != problem.message:  # not at each pass
            log.exception("could not report a record", name=state.record.name)
        status = broken(state.status, problem, at)
        return Report(state, action, status, state.record, answer=problem)


def write(registry: Registry, reports: Iterable[Report]) -> list[Report]:
    """Write reports inside the pass's transaction; returns the reports written.

    A report that cannot be encoded is left out. Raises `UnwritableError`.
    """
    store, at = registry.store, registry.clock.utc()
    written = []
    for report in reports:
        try:
            with store.transaction():
                _write(registry, report, at)
        except (TypeError, ValueError) as error:
            why = Problem.of_error(error).message
            log.error("could not write a record", name=report.record.name, why=why)
        else:
            written.append(report)
    return written


def _write(registry: Registry, report: Report, at: datetime) -> None:
    state, store, name = report.state, registry.store, report.record.name
    if report.settled is not None and (report.status != state.stored.status or report.undo):
        settled = report.settled
        store.note_outcome(state.record, settled.outcome, settled.message, at, settled.seconds)
    if report.removed:
        store.remove(name, at)
        return
    if report.record is not state.stored.record:
        store.put(report.record, report.status, at)
    elif report.status != state.stored.status:
        store.put_status(name, report.status)
    if state.crashes != state.stored.crashes:
        store.suspect(name, state.crashes)


def take(registry: Registry, report: Report, *, written: bool) -> None:
    """Apply a report and answer its waiters."""
    state, name = report.state, report.record.name
    undo = report.undo if written else None  # otherwise a later pass rolls back
    if undo is not None and report.removed:
        registry.forget(name, undo)
        registry.wake.set()
        return
    before = state.status
    crashes = state.crashes
    if undo is not None:
        log.info("update rolled back", name=name, reason=undo.message)
    if written and report.record is not state.record:
        registry.take_up(report.record, report.status)
    else:
        registry.emit_transition(state.record, before, report.status)
    state.judge(report.status, report.action if undo is None else None)
    state.ask_undo(None if written else report.undo)
    if written:
        state.note_stored(Stored(report.record, report.status, crashes))
    if report.answer is not None:
        state.fail_waiters(report.answer)
    elif report.status.ready:
        if state.awaited and report.record.spec.idle_ttl_seconds is not None:
            registry.wake.set()  # its last waiter is gone, so its idle time can end
        state.answer_waiters()
    if undo is not None:
        registry.wake.set()
    if state.settled:
        registry.active.discard(name)


def _settled(status: Status, action: Action | None) -> Settled | None:
    """Return the outcome of the spec, once known."""
    if status.ready:
        return Settled("Loaded", "", status.load_time_seconds)
    if action is None or action.acts or action.reason in _UNDECIDED:
        return None
    if action.problem is not None:
        return Settled("Failed", action.problem.message)
    return Settled("Suspended", action.message)
