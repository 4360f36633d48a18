"""Injectable clock: tests run timeouts and back-off on a fake one."""

import asyncio
import random
import time
from asyncio import Task
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, Protocol


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Cancel the call."""


class Clock(Protocol):
    """Time and random jitter."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def utc(self) -> datetime:
        """Wall-clock time in UTC, for reports."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` on the event loop after `delay` seconds."""

    def chance(self) -> float:
        """Return a random number in [0, 1), for jitter."""


class SystemClock:
    """The system's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(UTC)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)

    def chance(self) -> float:
        return random.random()  # noqa: S311  jitter, not a secret


async def wait_all(clock: Clock, tasks: Collection[Task[Any]], seconds: float) -> None:
    """Return when all `tasks` are done, or after `seconds` of `clock`. Cancels none of them."""
    waiting = asyncio.ensure_future(asyncio.wait(tasks))

    def end() -> None:
        waiting.cancel()

    timer = clock.call_later(seconds, end)
    try:
        await asyncio.wait([waiting])
    finally:
        timer.cancel()
        waiting.cancel()


async def sleep(clock: Clock, delay: float) -> None:
    """Return after `delay` seconds of `clock`."""
    done = asyncio.Event()
    timer = clock.call_later(delay, done.set)
    try:
        await done.wait()
    finally:
        timer.cancel()
