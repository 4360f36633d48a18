"""Recent and future lines written by a worker process."""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from reconciler.core.events import LogLine, identifier, position

KEPT = 1000
"""Maximum number of lines kept per worker."""

LONGEST = 4000
"""Maximum length of a kept line, in characters."""


class Log:
    """Log of one worker process. Used on the event loop only."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._run = secrets.token_hex(4)  # distinguishes ids of other workers
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
        self._count += 1
        id_ = identifier(self._run, self._count)
        self._lines.append(LogLine(id_, datetime.now(UTC), self._pid, line[:LONGEST]))
        self._wake()

    def end(self) -> None:
        """Mark the log as complete."""
        self._ended = True
        self._wake()

    async def follow(
        self, after: str | None = None, *, wait: bool
    ) -> AsyncIterator[LogLine | None]:
        """Iterate over the kept lines after the id `after`, and over future ones with `wait`.

        It ends with the process. None stands for lines that are no longer kept.
        """
        seen = position(after, self._run, self._count)
        if seen is None:
            yield None
            seen = 0
        while True:
            lost = self._count - len(self._lines)
            if seen < lost:
                if seen > 0:
                    yield None
                seen = lost
            more = self._more
            for line in list(self._lines)[seen - lost :]:
                seen += 1
                yield line
            if seen < self._count:
                continue
            if self._ended or not wait:
                return
            await more.wait()

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()
