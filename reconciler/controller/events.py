"""The last events, and those to come, for any number of listeners.

Listeners read from one bounded buffer at their own pace; who falls behind it is told so.
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
"""Of an id. Of more than 4,300 digits Python makes no number."""

KEPT = 5000
"""Events that a listener can be behind."""


class Events:
    """Used on the event loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._run = secrets.token_hex(
            4
        )  # an id of an earlier run must not be taken for one of ours
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._count = 0
        self._more = asyncio.Event()
        self._closed = False

    def emit(self, type_: EventType, name: str, reason: str, message: str, **more: Any) -> None:
        """Tell what happened; `more` are further fields of `Event`."""
        self._count += 1
        time = self._clock.utc()
        self._kept.append(Event(self.latest, time, type_, name, reason, message, **more))
        self._wake()

    def close(self) -> None:
        """End every `follow`."""
        self._closed = True
        self._wake()

    @property
    def latest(self) -> str:
        """The id of the newest event."""
        return f"{self._run}-{self._count}"

    @property
    def more(self) -> asyncio.Event:
        """Set as soon as something more happens than has until now."""
        return self._more

    async def follow(
        self, after: str | None = None, *, wait: bool = True
    ) -> AsyncIterator[Event | None]:
        """The kept events after the one with id `after`, and with `wait` those to come.

        None stands for events that are not kept any more.
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
        """How many events came up to that id; None where that is not known."""
        if id_ is None:
            return 0
        run, _, number = id_.rpartition("-")
        if run != self._run or not DIGITS.fullmatch(number) or int(number) > self._count:
            return None
        return int(number)

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
