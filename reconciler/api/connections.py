"""Limit on open connections, with eviction of idle ones.

Each open connection uses a file descriptor, and one whose request a worker is answering uses
another. Descriptors for workers, files and the database are kept free: at the limit, the connection
that has been idle for the longest is closed; if none is idle, the new one is refused. Accepting
therefore never fails for lack of descriptors.
"""

import resource
import time
from typing import Protocol

import structlog

from reconciler.core.ratelimit import RateLimit

log = structlog.get_logger()

RESERVE = 200
"""File descriptors reserved for workers, the database, watched directories, git and downloads."""

LEAST_CONNECTIONS = 16

MOST_DESCRIPTORS = 65_536
"""Upper bound of the limit. More are of no use here; some systems reject an unlimited value."""

LOG_SECONDS = 60.0


class Closable(Protocol):
    """Interface of a connection that `Connections` can close."""

    def force_close(self) -> None: ...


class Connections:
    """The open connections, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[Closable] = set()
        self._idle: dict[Closable, None] = {}
        """Idle connections, the longest idle first."""
        self._lines = RateLimit(LOG_SECONDS, time.monotonic)

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, connection: Closable) -> bool:
        """Admit a new connection, as idle. False if the limit is reached and none is idle."""
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
        """Mark a connection as busy with a request."""
        self._idle.pop(connection, None)

    def end(self, connection: Closable) -> None:
        """Mark a connection as idle: its request was answered."""
        if connection in self._open:
            self._idle[connection] = None

    def forget(self, connection: Closable) -> None:
        """Remove a closed connection."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def _log_refusal(self) -> None:
        left_out = self._lines.passes("many")
        if left_out is not None:
            log.warning("too many connections", limit=self.limit, idle=len(self._idle))


def raise_limit() -> int:
    """Raise the soft limit of file descriptors to the hard one. Returns the limit in force.

    Shells on macOS allow 256 by default, and those on Linux 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS has no hard limit by default, but its kernel caps the value, at 10,240 or more.
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
    """Maximum number of connections that leaves the reserve free."""
    return max(LEAST_CONNECTIONS, (min(descriptors, MOST_DESCRIPTORS) - RESERVE) // 2)
