"""How many connections there may be, and which one goes for a new one.

Each open connection takes a file descriptor, and one that has a request answered by a worker takes
another. Descriptors that workers, files and the database need are kept free: when there are too
many connections, the one that has been idle for the longest is closed; if none is idle, the new one
is refused. So accepting never fails for want of descriptors.
"""

import resource
import time
from typing import Protocol

import structlog

from reconciler.core.ratelimit import RateLimit

log = structlog.get_logger()

RESERVE = 200
"""File descriptors for workers, the database, watched directories, git and downloads."""

LEAST_CONNECTIONS = 16

MOST_DESCRIPTORS = 65_536
"""More are of no use here; some systems refuse a limit without bound."""

LOG_SECONDS = 60.0


class Closable(Protocol):
    """A connection, as far as it is counted."""

    def force_close(self) -> None: ...


class Connections:
    """The open connections. `limit`: the most of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[Closable] = set()
        self._idle: dict[Closable, None] = {}
        """The longest idle first."""
        self._lines = RateLimit(LOG_SECONDS, time.monotonic)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Closable) -> bool:
        """Count a new connection, which is idle. False: there are too many, and none is idle."""
        if len(self._open) >= self.limit:
            self._log_refusal()
            if not self._idle:
                return False
            oldest = next(iter(self._idle))
            self.forget(oldest)
            oldest.force_close()
        self._open.add(connection)
        self._idle[connection] = None
        return True

    def begin(self, connection: Closable) -> None:
        """It has a request."""
        self._idle.pop(connection, None)

    def end(self, connection: Closable) -> None:
        """Its request is answered."""
        if connection in self._open:
            self._idle[connection] = None

    def forget(self, connection: Closable) -> None:
        """It is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def _log_refusal(self) -> None:
        left_out = self._lines.passes("many")
        if left_out is not None:
            log.warning("too many connections", limit=self.limit, idle=len(self._idle))


def raise_limit() -> int:
    """Raise the soft limit of file descriptors to the hard one; the limit that is in force.

    Shells on macOS allow 256 by default, and Linux 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS has no hard limit by default, and refuses more than its kernel allows: 10,240 at least.
    unbounded = hard == resource.RLIM_INFINITY
    for limit in (MOST_DESCRIPTORS, 10_240) if unbounded else (hard,):
        if soft != resource.RLIM_INFINITY and soft >= limit:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (ValueError, OSError):
            continue
        return limit
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def connections_within(descriptors: int) -> int:
    """The most connections that leave the reserve free."""
    return max(LEAST_CONNECTIONS, (min(descriptors, MOST_DESCRIPTORS) - RESERVE) // 2)
