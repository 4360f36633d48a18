"""Turns of handlers that have much to do on the event loop.

A handler that yields after each batch is not enough: hundreds of them, each with a batch, would
still occupy the event loop for seconds between two turns of any other task. So only one of them
works on a batch at a time.
"""

import asyncio
from weakref import WeakKeyDictionary

_turns: "WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]" = WeakKeyDictionary()
"""Lock by event loop, held by the handler whose turn is next."""


async def turn() -> None:
    """Let other tasks run, and wait until no other handler's turn comes before."""
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        await asyncio.sleep(0)


class Pace:
    """Turns of one stream: sending does not yield while its client's buffer has room."""

    AT_ONCE = 20
    """Events sent in one turn, at about 0.05 ms each."""

    def __init__(self) -> None:
        self._sent = 0

    async def wait(self) -> None:
        """Wait for a turn if necessary. To be called before each event."""
        if self._sent % self.AT_ONCE == 0:
            await turn()
        self._sent += 1
