"""Deliver calls from the MLX thread to the event loop of the HTTP thread, in order.

A wake-up of the loop is a system call, and `call_soon_threadsafe` makes one for each call. A step
generates tokens for many requests: the first of them wakes the loop, and it takes the others along.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any


class Mailbox:
    """Calls that a loop is to make."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False
        """True if the loop was woken and has not read the calls since."""

    def post(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have the loop make a call, after those posted before. Thread-safe.

        Raises RuntimeError if the loop is closed.
        """
        self._calls.append((call, arguments))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # closed
                self._woken = False
                self._calls.clear()
                raise

    def _deliver(self) -> None:
        self._woken = False  # first: a call that is posted from now on wakes the loop again
        try:
            for _ in range(len(self._calls)):
                call, arguments = self._calls.popleft()
                call(*arguments)
        finally:
            if self._calls and not self._woken:  # one failed: the loop reports it
                self._woken = True
                self._loop.call_soon(self._deliver)


def of_running_loop() -> Mailbox:
    """The mailbox that all requests of the running event loop share."""
    return _of(asyncio.get_running_loop())


@lru_cache(maxsize=1)  # a worker has one loop
def _of(loop: asyncio.AbstractEventLoop) -> Mailbox:
    return Mailbox(loop)
