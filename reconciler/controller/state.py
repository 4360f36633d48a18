"""One record and every volatile fact about it.

A `RecordState` is changed by its methods only, on the event loop. Its phase says where it is on its
way:

    NEW ──► WAITING ◄──► ACTING ──► READY
     │         │            │         │
     └─────────┴── STALLED, RESTING ◄─┘        REMOVED is final

A pass of the reconciler judges it; a new spec, a wake-up or a clear makes it NEW again. What is on
disk of it is remembered (`stored`), so that whatever differs is written by the next pass that can
write, however often writing failed before.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from reconciler.core import suspicion
from reconciler.core.backoff import Retry
from reconciler.core.errors import LoadError, Problem
from reconciler.core.plan import Action, Kind
from reconciler.core.records import LoadSpec, Record, SettingWarning, Status
from reconciler.core.suspicion import CrashRecord


class Phase(StrEnum):
    """Where a record is on its way."""

    NEW = "new"
    """No pass has judged it as it is now."""
    WAITING = "waiting"
    """For its turn, for memory, for its files, or for the next attempt."""
    ACTING = "acting"
    READY = "ready"
    STALLED = "stalled"
    """It cannot be until its spec or its files change."""
    RESTING = "resting"
    """Suspended or idle, and not loaded."""
    REMOVED = "removed"


@dataclass(frozen=True)
class RecordView:
    """A record and its status at the moment at which a question was settled."""

    record: Record
    status: Status
    joined: bool = False
    warnings: tuple[SettingWarning, ...] = ()
    """What the question changed for others."""


@dataclass(frozen=True)
class Stored:
    """What of a record is on disk."""

    record: Record
    status: Status
    crashes: CrashRecord | None = None


class RecordState:
    """What is known of one record. Attributes are read by others, and set here alone."""

    def __init__(self, record: Record, status: Status, now: float, stored: Stored) -> None:
        """`now` is the monotonic time in seconds; `stored` is on disk."""
        self.record = record
        self.status = status
        self.phase = Phase.NEW
        self.stored = stored
        self.queued_at = now
        """Monotonic time at which the present spec was asked for."""
        self.used_at = now
        """Monotonic time at which the last request ended, or the spec was asked for or loaded."""
        self.retry: Retry | None = None
        self.restore: Retry | None = None
        """Failure to load the last good spec again."""
        self.crashes = stored.crashes
        """Crashes that it was there at."""
        self.undo: Problem | None = None
        """Why its spec is to be undone, until that is written down."""
        self.idle = False
        """True if no request came for as long as the record allows."""
        self.requests = 0
        """In flight."""
        self.loaded_since: float | None = None
        """Monotonic time at which its instance was first seen."""
        self._waiters: list[asyncio.Future[RecordView]] = []

    # -- desired state -----------------------------------------------------------------------

    def respec(self, record: Record, status: Status, now: float) -> None:
        """Take up another state of the record, which is on disk with that status.

        A new generation starts over: back-off, crashes and idleness belong to the one before.
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
        """The record is gone; whoever waits is told `problem`."""
        self.phase = Phase.REMOVED
        self.fail_waiters(problem)

    def clear(self, status: Status, now: float) -> None:
        """Forget failures and crashes, which is on disk with that status."""
        self.status, self.crashes = status, None
        self.stored = Stored(self.record, status)
        self.retry = self.restore = None
        self.queued_at = now
        self.phase = Phase.NEW

    def wake(self, status: Status, now: float) -> None:
        """It is idle no more; that it is pending is on disk."""
        self.status = status
        self.stored = replace(self.stored, status=status)
        self.idle = False
        self.queued_at = now
        self.phase = Phase.NEW

    def resume_idle(self) -> None:
        """It was idle when the daemon stopped."""
        self.idle = True

    # -- requests ----------------------------------------------------------------------------

    def touch(self, now: float) -> None:
        """Somebody wants to use it."""
        self.used_at = now

    def begin_request(self) -> None:
        """A request is in flight from here on."""
        self.requests += 1

    def end_request(self, now: float) -> None:
        """A request in flight has ended."""
        self.requests -= 1
        self.used_at = now

    def note_idle(self, now: float, *, usable: bool) -> float | None:
        """Note whether it is idle; returns when it will be, if time alone makes it so.

        `usable`: True if it is loaded and nobody uses it or waits for it.
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
        """An attempt to load `spec` for the record as it was then has failed."""
        if spec.loads_like(record.spec):
            self.retry = retry
        else:
            self.restore = retry
        if self.record.provisional:
            self.undo = retry.problem

    def last_failure(self, record: Record, spec: LoadSpec) -> Retry | None:
        """The failure that a further one of `spec` adds to."""
        return self.retry if spec.loads_like(record.spec) else self.restore

    def succeed(
        self, action: Action, record: Record, queued: float, at: datetime, now: float
    ) -> None:
        """An action that loads went well, for the record as it was when it began."""
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
        """Its instance was unloaded in good order."""
        if self.record.created_at == record.created_at:
            self.crashes = None

    def die(self, now: float) -> None:
        """Its worker ended by itself."""
        self.queued_at = now
        self.status = replace(self.status, restarts=self.status.restarts + 1)

    def note_loaded(self, now: float | None) -> None:
        """Its instance is seen at `now`; None: there is none. An hour of it forgives crashes."""
        if now is None:
            self.loaded_since = None
            return
        if self.loaded_since is None:
            self.loaded_since = now
        if now - self.loaded_since >= suspicion.FORGIVEN_SECONDS:
            self.crashes = None

    def blame(self, crashes: CrashRecord) -> None:
        """Hold crashes against it, which is on disk."""
        self.crashes = crashes
        self.stored = replace(self.stored, crashes=crashes)

    # -- what a pass found -------------------------------------------------------------------

    def judge(self, status: Status, action: Action | None) -> None:
        """Take up what a pass found; `action` is what is done about it, or why nothing is."""
        self.status = status
        if action is None:
            self.phase = Phase.READY if status.ready else Phase.NEW
        elif action.acts:
            self.phase = Phase.ACTING
        elif action.kind is Kind.WAIT:
            self.phase = Phase.WAITING
        else:
            self.phase = Phase.STALLED if action.problem is not None else Phase.RESTING

    def ask_undo(self, problem: Problem | None) -> None:
        """Have its spec undone as soon as that can be written down; None: it is, or need not be."""
        self.undo = problem

    def note_stored(self, stored: Stored) -> None:
        """This is on disk."""
        self.stored = stored

    @property
    def unsaved(self) -> bool:
        """True if what is known of it differs from what is on disk."""
        stored = self.stored
        return (
            (self.status is not stored.status and self.status != stored.status)
            or self.crashes != stored.crashes
            or (self.record is not stored.record and self.record != stored.record)
        )

    @property
    def settled(self) -> bool:
        """True if no pass has anything to do for it until something changes."""
        idle = self.phase is Phase.RESTING and self.undo is None
        return idle and not (self._waiters or self.requests or self.unsaved)

    # -- who waits ---------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """True if somebody waits for it."""
        return any(not waiter.done() for waiter in self._waiters)

    @property
    def busy(self) -> bool:
        """True if it answers a request, or somebody waits for it."""
        return bool(self.requests) or self.awaited

    def wait(self) -> "asyncio.Future[RecordView]":
        """Its view once it is ready; `LoadError` if it will not be."""
        waiter: asyncio.Future[RecordView] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def answer_waiters(self) -> None:
        """Tell whoever waits that it is ready."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(RecordView(self.record, self.status))
        self._waiters.clear()

    def fail_waiters(self, problem: Problem) -> None:
        """Tell whoever waits why it will not be."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(LoadError(problem))
        self._waiters.clear()

    @property
    def view(self) -> RecordView:
        """As it is now."""
        return RecordView(self.record, self.status)
