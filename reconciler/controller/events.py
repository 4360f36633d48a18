"""Recent and future events, for any number of listeners.

Listeners read from one bounded buffer at their own pace; a listener that falls behind the buffer
receives None in place of the lost events.
"""

import asyncio
import itertools
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from reconciler.controller.clock import Clock
from reconciler.core.events import Event, EventType, identifier, position

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
        return identifier(self._run, self._count)

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
        seen = position(after, self._run, self._count)
        if seen is None:
            yield None
            seen = 0
        while True:
            lost = self._count - len(self._kept)
            if seen < lost:
                if seen > 0:
                    yield None
                seen = lost
            more = self._more
            for event in list(itertools.islice(self._kept, seen - lost, None)):
                seen += 1
                yield event
            if seen < self._count:
                continue
            if self._closed or not wait:
                return
            await more.wait()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
