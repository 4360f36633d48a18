"""Recent and future events, for any number of listeners.

Listeners read from one bounded buffer at their own pace; a listener that falls behind the buffer
receives None in place of the lost events.
"""

import asyncio
import itertools
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from reconciler.controller.clock import Clock
from reconciler.core.events import Event, EventType

DIGITS = re.compile("[0-9]{1,18}")
"""Digits of an event id. Python refuses to convert more than 4,300 digits."""

KEPT = 5000
"""Maximum number of buffered events."""


class Events:
    """Buffer of events. Used on the event loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._run = secrets.token_hex(4)  # distinguishes ids of earlier runs
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._count = 0
        self._more = asyncio.Event()
        self._closed = False

    def emit(self, type_: EventType, name: str, reason: str, message: str, **more: Any) -> None:
        """Emit an event; `more` are further fields of `Event`."""
        self._count += 1
        time = self._clock.utc()
        self._kept.append(Event(self.latest, time, type_, name, reason, message, **more))
        self._wake()

    def close(self) -> None:
        """End all `follow` iterators."""
        self._closed = True
        self._wake()

    @property
    def latest(self) -> str:
        """Id of the newest event."""
        return f"{self._run}-{self._count}"

    @property
    def more(self) -> asyncio.Event:
        """Event that is set when a newer event is emitted."""
        return self._more

    async def follow(
        self, after: str | None = None, *, wait: bool = True
    ) -> AsyncIterator[Event | None]:
        """Iterate over the buffered events after the id `after`, and over future ones with `wait`.

        None stands for events that are no longer buffered.
        """
        position = self._number(after)
        if position is None:
            yield None
            position = 0
        while True:
            lost = self._count - len(self._kept)
            if position < lost:
                if position > 0:
                    yield None
                position = lost
            more = self._more
            for event in list(itertools.islice(self._kept, position - lost, None)):
                position += 1
                yield event
            if position < self._count:
                continue
            if self._closed or not wait:
                return
            await more.wait()

    def _number(self, id_: str | None) -> int | None:
        """Return the position of an id; None if it is unknown."""
        if id_ is None:
            return 0
        run, _, number = id_.rpartition("-")
        if run != self._run or not DIGITS.fullmatch(number) or int(number) > self._count:
            return None
        return int(number)

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
