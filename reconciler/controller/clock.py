"""The clock, handed in: grace times and back-off are the same on a fake one."""

import asyncio
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Do not make it."""


class Clock(Protocol):
    """Time, and what chance adds to it."""

    def monotonic(self) -> float:
        """Seconds since some moment; never set back."""

    def utc(self) -> datetime:
        """The time for reports."""

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call back on the event loop after `delay` seconds."""

    def chance(self) -> float:
        """A random number in [0, 1), for jitter."""


class SystemClock:
    """The machine's own."""

    def monotonic(self) -> float:
        return time.monotonic()

    def utc(self) -> datetime:
        return datetime.now(UTC)

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay, callback)

    def chance(self) -> float:
        return random.random()  # noqa: S311  jitter, not a secret


async def sleep(clock: Clock, delay: float) -> None:
    """Return after `delay` seconds of `clock`."""
    done = asyncio.Event()
    timer = clock.call_later(delay, done.set)
    try:
        await done.wait()
    finally:
        timer.cancel()
