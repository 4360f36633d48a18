"""Events and lines of logs, as sent to subscribers, and their identifiers."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from reconciler.core.records import Condition, Progress

EventType = Literal["record", "transition", "phase", "source", "state"]


DIGITS = re.compile("[0-9]{1,18}")
"""Digits of an identifier. Python refuses to convert more than 4,300 digits."""


def identifier(run: str, number: int) -> str:
    """Identifier of an event or a line: its number, from 1, and the run that counted it."""
    return f"{run}-{number}"


def position(id_: str | None, run: str, newest: int) -> int | None:
    """Number in an identifier; 0 without one, None if that run has not counted so far."""
    if id_ is None:
        return 0
    named, _, number = id_.rpartition("-")
    if named != run or not DIGITS.fullmatch(number) or int(number) > newest:
        return None
    return int(number)


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

    id: str
    """Unordered; send it as `Last-Event-ID` to get later lines."""
    time: datetime
    pid: int
    line: str
