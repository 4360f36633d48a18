"""Events, as sent to subscribers."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from reconciler.core.records import Condition, Progress

EventType = Literal["record", "transition", "phase", "source", "state"]


@dataclass(frozen=True)
class FileLocation:
    """A position in a source's files; line and column count from 1."""

    file: str
    line: int
    column: int
    key: str


@dataclass(frozen=True)
class Event:
    """One event.

    record       Created, Changed, TakenOver, Cleared or Removed
    transition   the conditions of a record changed; the reason is that of `Ready`
    phase        a load progressed; the reason is the phase
    source       Unreadable, Readable, Invalid, Valid, NotFollowed or Held
    state        SetAside, Unwritable or Writable
    """

    id: str
    """Unordered; send it as `Last-Event-ID` to get later events."""
    time: datetime
    type: EventType
    name: str
    """Name of the record or of the source; `state` for the state directory."""
    reason: str
    message: str
    generation: int | None = None
    conditions: tuple[Condition, ...] | None = None
    progress: Progress | None = None
    place: FileLocation | None = None


@dataclass(frozen=True)
class LogLine:
    """A line written by a worker process, and the time at which it was read."""

    time: datetime
    pid: int
    line: str
