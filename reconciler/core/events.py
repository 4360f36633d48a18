"""What happened, as it is told to whoever listens."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from reconciler.core.records import Condition, Progress

EventType = Literal["record", "transition", "phase", "source", "state"]


@dataclass(frozen=True)
class FileLocation:
    """Where in a source's files something stands; line and column count from 1."""

    file: str
    line: int
    column: int
    key: str


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    record       Created, Changed, TakenOver, Cleared or Removed
    transition   the conditions of a record changed; the reason is that of `Ready`
    phase        a load got further; the reason is the phase
    source       Unreadable, Readable, Invalid, Valid, NotFollowed or Held
    state        SetAside, Unwritable or Writable
    """

    id: str
    """Sorts by nothing; send it as `Last-Event-ID` to get what came after it."""
    time: datetime
    type: EventType
    name: str
    """Of the record, or of the source; `state` for the state directory."""
    reason: str
    message: str
    generation: int | None = None
    conditions: tuple[Condition, ...] | None = None
    progress: Progress | None = None
    place: FileLocation | None = None


@dataclass(frozen=True)
class LogLine:
    """A line that a worker process wrote, and when it was read."""

    time: datetime
    pid: int
    line: str
