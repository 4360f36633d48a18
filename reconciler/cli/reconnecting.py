"""Requests that are repeated after their connection is lost.

The daemon sends something on every stream at least every 15 s, so a silent one is dead
(`client.SILENCE_SECONDS`). Commands that follow something repeat their request then, and resume
after the last event that they saw. All of them are listed here:

    events -f, logs -f            `follow`, which resumes
    load, run                     the load is sent again, and joins the first one
    apply --wait, wait            the request is sent again
    pull, downloads watch, top    the next poll

While the daemon restarts, it refuses connections or changes, or a proxy answers for it; these count
as losses too once it has served a request of the command. A chat cannot be resumed: silence ends it
with an error.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import click

from reconciler.cli.client import (
    Client,
    ConnectionLostError,
    DaemonError,
    SilentError,
    UnreachableError,
)

T = TypeVar("T")

RECONNECT_SECONDS = 60.0
"""Time after the loss of a connection in which the daemon must respond again."""

RETRY_SECONDS = 2.0

SERVED_SECONDS = 30.0
"""A request whose connection is lost after this time, without its silence, has been served."""

POLL_SECONDS = 15.0
"""Maximum duration of a request that the daemon answers at once."""


TRANSIENT = frozenset({"stopping", "too_many_connections"})
"""Codes of errors that a daemon reports before it restarts, or until connections end."""


class Reconnecting:
    """Attempts of one request."""

    def __init__(self, client: Client, until: float | None = None) -> None:
        """`until`: monotonic time of the last attempt; None: no limit of its own."""
        self._client, self._until = client, until
        self._lost_at: float | None = None
        self._began = time.monotonic()

    async def pause(self, error: UnreachableError | DaemonError) -> None:
        """Wait before the next attempt. Raises `error` if there is none."""
        if not self._is_loss(error):
            raise error
        now = time.monotonic()
        silence = error.seconds if isinstance(error, SilentError) else 0.0
        if now - silence >= self._began + SERVED_SECONDS:
            self.note_response()
        if self._lost_at is None:
            self._lost_at = now
            click.echo(f"lost the connection to {self._client.url}; reconnecting", err=True)
        ends = [self._lost_at + RECONNECT_SECONDS, *([] if self._until is None else [self._until])]
        if now + RETRY_SECONDS > min(ends):
            raise error
        await asyncio.sleep(RETRY_SECONDS)
        self._began = time.monotonic()

    def _is_loss(self, error: UnreachableError | DaemonError) -> bool:
        if isinstance(error, DaemonError):
            return self._client.answered and error.code in TRANSIENT
        return self._client.answered or isinstance(error, ConnectionLostError)

    def note_response(self) -> None:
        """Note that the daemon responds."""
        self._lost_at = None


async def repeated(
    client: Client, ask: Callable[[], Awaitable[T]], until: float | None = None
) -> T:
    """Send a request again while its connection is lost. Raises `UnreachableError`.

    `until`: monotonic time of the last attempt.
    """
    attempts = Reconnecting(client, until)
    while True:
        try:
            return await ask()
        except (UnreachableError, DaemonError) as error:
            await attempts.pause(error)


async def follow(
    client: Client, path: str, *, endless: bool = False, **query: str
) -> AsyncIterator[tuple[str, Any]]:
    """Type and data of each event of a stream, until the daemon ends it.

    `endless`: the daemon ends the stream only when it stops, as before a restart.
    """
    attempts = Reconnecting(client)
    last: str | None = None
    while True:
        try:
            async for event in client.stream("GET", path, last=last, **query):
                attempts.note_response()
                if event is not None:
                    last = event.id or last
                    yield event.type, event.data
            if not endless:
                return
            raise ConnectionLostError(client.url)
        except (UnreachableError, DaemonError) as error:
            await attempts.pause(error)
