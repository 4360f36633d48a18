"""Asking a source to look now, and to say when what it saw was taken up."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class RefreshRequests:
    """The look that is asked for: it begins after the question, and ends once it was taken up."""

    def __init__(self) -> None:
        self._asked: list[asyncio.Future[None]] = []
        self._event = asyncio.Event()

    async def ask(self) -> None:
        """Return when a look that began after this call has ended."""
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self._event.set()
        await asked

    @contextmanager
    def look(self) -> Iterator[bool]:
        """Around a look, until what was seen was taken up, or it failed; True: it is asked for."""
        self._event.clear()
        asked, self._asked = self._asked, []
        try:
            yield bool(asked)
        finally:
            for future in asked:
                if not future.done():
                    future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Return when somebody asks, or after so many seconds."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return

    async def asked(self) -> None:
        """Return when somebody asks."""
        await self._event.wait()
