"""Recent and future lines written by a worker process."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from reconciler.core.events import LogLine

KEPT = 1000
"""Maximum number of lines kept per worker."""

LONGEST = 4000
"""Maximum length of a kept line, in characters."""


class Log:
    """Log of one worker process. Used on the event loop only."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._lines: deque[LogLine] = deque(maxlen=KEPT)
        self._count = 0
        self._more = asyncio.Event()
        self._ended = False

    @property
    def last(self) -> str | None:
        """Newest line."""
        return self._lines[-1].line if self._lines else None

    def write(self, line: str) -> None:
        """Append a line."""
        self._lines.append(LogLine(datetime.now(UTC), self._pid, line[:LONGEST]))
        self._count += 1
        self._wake()

    def end(self) -> None:
        """Mark the log as complete."""
        self._ended = True
        self._wake()

    async def follow(self, *, wait: bool) -> AsyncIterator[LogLine]:
        """Iterate over the kept lines, and with `wait` over future ones until the process ends."""
        position = 0
        while True:
            lost = self._count - len(self._lines)
            position = max(position, lost)
            more = self._more
            for line in list(self._lines)[position - lost :]:
                position += 1
                yield line
            if position < self._count:
                continue
            if self._ended or not wait:
                return
            await more.wait()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
