"""One record with all its volatile state.

A `RecordState` is changed only through its methods, on the event loop. `phase` is its progress:

    NEW ──► WAITING ◄──► ACTING ──► READY
     │         │            │         │
     └─────────┴── STALLED, RESTING ◄─┘        REMOVED is final

Passes of the reconciler set the phase; a new spec, a wake-up or a clear resets it to NEW. `stored`
is the persisted part of the state: the next pass that can write persists any difference, even
after repeated failures to write.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from reconciler.core import suspicion
from reconciler.core.backoff import Retry
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.plan import Action, Kind
from reconciler.core.records import HTTP, Instance, LoadSpec, Record, SettingWarning, Status
from reconciler.core.suspicion import CrashRecord


class Phase(StrEnum):
    """Progress of a record."""

    NEW = "new"
    """Not yet processed by a pass in its current form."""
    WAITING = "waiting"
    """Waiting for its turn, memory, files or the next attempt."""
    ACTING = "acting"
    READY = "ready"
    STALLED = "stalled"
    """Cannot be loaded until its spec or its files change."""
    RESTING = "resting"
    """Suspended or idle, and not loaded."""
    REMOVED = "removed"


@dataclass(frozen=True)
class RecordView:
    """A record and its status, as returned to a caller."""

    record: Record
    status: Status
    joined: bool = False
    warnings: tuple[SettingWarning, ...] = ()
    """Side effects of the caller's request on other settings."""


@dataclass(frozen=True)
class Stored:
    """Persisted part of a record's state."""

    record: Record
    status: Status
    crashes: CrashRecord | None = None


class RecordState:
    """State of one record. Attributes are read by others and set only here."""

    def __init__(self, record: Record, status: Status, now: float, stored: Stored) -> None:
        """`now` is the monotonic time in seconds; `stored` is the persisted state."""
        self.record = record
        self.status = status
        self.phase = Phase.NEW
        self.stored = stored
        self.queued_at = now
        """Monotonic time at which the current spec was requested."""
        self.used_at = now
        """Monotonic time of the last end of a request, or of the spec's arrival or load."""
        self.retry: Retry | None = None
        self.restore: Retry | None = None
        """Failure to reload the last good spec."""
        self.crashes = stored.crashes
        """Crashes during which it was loaded or loading."""
        self.undo: Problem | None = None
        """Problem because of which its spec is rolled back, until the roll-back is persisted."""
        self.idle = False
        """True if it received no request for its idle TTL."""
        self.requests = 0
        """Number of requests in flight."""
        self.loaded_since: float | None = None
        """Monotonic time at which its instance was first observed."""
        self._waiters: list[asyncio.Future[RecordView]] = []

    # -- desired state -----------------------------------------------------------------------

    def respec(self, record: Record, status: Status, now: float) -> None:
        """Apply a new version of the record that has been persisted with that status.

        A new generation resets back-off, crashes and idleness.
        """
        if record.generation != self.record.generation:
            self.queued_at = self.used_at = now
            self.idle = False
            self.crashes = None
            self.undo = None
        if record != self.record:
            self.phase = Phase.NEW
        self.record, self.status = record, status
        self.stored = Stored(record, status, self.stored.crashes)

    def remove(self, problem: Problem) -> None:
        """Mark the record as removed; waiters receive `problem`."""
        self.phase = Phase.REMOVED
        self.fail_waiters(problem)

    def clear(self, status: Status, now: float) -> None:
        """Clear failures and crashes; this has been persisted with that status."""
        self.status, self.crashes = status, None
        self.stored = Stored(self.record, status)
        self.retry = self.restore = None
        self.queued_at = now
        self.phase = Phase.NEW

    def wake(self, status: Status, now: float) -> None:
        """End idleness; the pending status has been persisted."""
        self.status = status
        self.stored = replace(self.stored, status=status)
        self.idle = False
        self.queued_at = now
        self.phase = Phase.NEW

    def resume_idle(self) -> None:
        """Restore the idle state from before the daemon stopped."""
        self.idle = True

    # -- requests ----------------------------------------------------------------------------

    def touch(self, now: float) -> None:
        """Mark as used."""
        self.used_at = now

    def begin_request(self) -> None:
        """Count a request in flight."""
        self.requests += 1

    def end_request(self, now: float) -> None:
        """Record the end of a request in flight."""
        self.requests -= 1
        self.used_at = now

    def note_idle(self, now: float, *, usable: bool) -> float | None:
        """Update `idle`; returns the monotonic time at which it becomes idle without requests.

        `usable`: True if it is loaded and has neither requests nor waiters.
        """
        ttl = self.record.spec.idle_ttl_seconds
        if ttl is None:
            self.idle = False
            return None
        if not usable:
            return None
        end = self.used_at + ttl
        self.idle = end <= now
        return end if end > now else None

    # -- attempts ----------------------------------------------------------------------------

    def fail(self, record: Record, spec: LoadSpec, retry: Retry) -> None:
        """Record a failed attempt to load `spec`, started for this version of the record."""
        if spec.loads_like(record.spec):
            self.retry = retry
        else:
            self.restore = retry
        if self.record.provisional:
            self.undo = retry.problem

    def last_failure(self, record: Record, spec: LoadSpec) -> Retry | None:
        """Return the previous failure that another failure of `spec` adds to."""
        return self.retry if spec.loads_like(record.spec) else self.restore

    def succeed(
        self, action: Action, record: Record, queued: float, at: datetime, now: float
    ) -> None:
        """Record a successful load, started for this version of the record."""
        self.used_at = now
        if self.record.created_at != record.created_at:
            return
        if action.spec is not None and action.spec.loads_like(record.spec):
            self.retry = None
        self.restore = None
        self.crashes = suspicion.after_success(self.crashes)
        self.status = replace(
            self.status, queued_seconds=queued, loaded_by=action.kind.value, loaded_at=at
        )

    def unloaded(self, record: Record) -> None:
        """Record a clean unload of its instance."""
        if self.record.created_at == record.created_at:
            self.crashes = None

    def die(self, now: float) -> None:
        """Record an unexpected end of its worker."""
        self.queued_at = now
        self.status = replace(self.status, restarts=self.status.restarts + 1)

    def note_loaded(self, now: float | None) -> None:
        """Record that its instance is loaded at `now`; None if it is not.

        An hour of being loaded clears its crashes.
        """
        if now is None:
            self.loaded_since = None
            return
        if self.loaded_since is None:
            self.loaded_since = now
        if now - self.loaded_since >= suspicion.FORGIVEN_SECONDS:
            self.crashes = None

    def blame(self, crashes: CrashRecord) -> None:
        """Attribute crashes to it; they have been persisted."""
        self.crashes = crashes
        self.stored = replace(self.stored, crashes=crashes)

    # -- results of a pass -------------------------------------------------------------------

    def judge(self, status: Status, action: Action | None) -> None:
        """Apply the results of a pass; `action` acts on the record or says why nothing does."""
        self.status = status
        if action is None:
            self.phase = Phase.READY if status.ready else Phase.NEW
        elif action.acts:
            self.phase = Phase.ACTING
        elif action.kind is Kind.WAIT:
            self.phase = Phase.WAITING
        else:
            self.phase = Phase.STALLED if action.problem is not None else Phase.RESTING

    def noted_good(self, instance: Instance) -> Record:
        """Its record with the spec of its loaded instance as the last good one."""
        record, good = self.record, self.record.last_good
        if not record.provisional and good is not None and good.loads_like(instance.spec):
            return record
        return replace(record, provisional=False, last_good=instance.spec)

    def is_undone_by(self, problem: Problem, record: Record) -> bool:
        """True if `problem` rolls back its spec: of an http record; a manifest's spec is retried.

        `record` is its record, or that with the last good spec noted.
        """
        previous = record.last_good
        if problem.reason is Reason.STATE_UNWRITABLE and self.undo is None and not self.awaited:
            return False  # a spec whose failure has not been reported can wait
        if record.provisional:
            return True
        return (
            record.owner == HTTP
            and previous is not None
            and not previous.loads_like(record.spec)
            and problem.reason is not Reason.SUSPECTED_HOST_CRASH  # concerns not its spec
        )

    def ask_undo(self, problem: Problem | None) -> None:
        """Request a roll-back of its spec once it can be persisted; None cancels the request."""
        self.undo = problem

    def note_stored(self, stored: Stored) -> None:
        """Record the persisted state."""
        self.stored = stored

    @property
    def unsaved(self) -> bool:
        """True if its state differs from the persisted state."""
        stored = self.stored
        return (
            (self.status is not stored.status and self.status != stored.status)
            or self.crashes != stored.crashes
            or (self.record is not stored.record and self.record != stored.record)
        )

    @property
    def settled(self) -> bool:
        """True if passes have nothing to do for it until something changes."""
        idle = self.phase is Phase.RESTING and self.undo is None
        return idle and not (self._waiters or self.requests or self.unsaved)

    # -- waiters -----------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """True if it has waiters."""
        return any(not waiter.done() for waiter in self._waiters)

    @property
    def busy(self) -> bool:
        """True if it has requests in flight or waiters."""
        return bool(self.requests) or self.awaited

    def wait(self) -> "asyncio.Future[RecordView]":
        """Return a future for its view once ready; fails with `LoadError` otherwise."""
        waiter: asyncio.Future[RecordView] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def answer_waiters(self) -> None:
        """Resolve all waiters with the ready record."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(RecordView(self.record, self.status))
        self._waiters.clear()

    def fail_waiters(self, problem: Problem) -> None:
        """Fail all waiters."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(LoadError(problem))
        self._waiters.clear()

    @property
    def view(self) -> RecordView:
        """Current record and status."""
        return RecordView(self.record, self.status)
