"""Requests for a refresh of a source, which wait until the result has been applied."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class RefreshRequests:
    """Pending requests; each is served by a refresh that begins after it."""

    def __init__(self) -> None:
        self._asked: list[asyncio.Future[None]] = []
        self._event = asyncio.Event()

    async def ask(self) -> None:
        """Return when a refresh that began after this call has ended."""
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self._event.set()
        await asked

    @contextmanager
    def look(self) -> Iterator[bool]:
        """Enclose a refresh until it has been applied or failed; yields True if requested."""
        self._event.clear()
        asked, self._asked = self._asked, []
        try:
            yield bool(asked)
        finally:
            for future in asked:
                if not future.done():
                    future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Return when a refresh is requested, or after that number of seconds."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return

    async def asked(self) -> None:
        """Return when a refresh is requested."""
        await self._event.wait()
