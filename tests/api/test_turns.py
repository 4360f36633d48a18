"""Hundreds of long responses leave turns to other tasks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from reconciler.api import events
from reconciler.api.pieces import AT_ONCE, each
from reconciler.api.turns import Pace

MANY = 300
"""Concurrent responses."""


async def most_at_once(one: Callable[[Callable[[], None]], Awaitable[object]]) -> int:
    """Most items that `MANY` responses serialize between two turns of another task.

    `one`: makes a response, and calls its argument for each item.
    """
    made = most = 0

    def note() -> None:
        nonlocal made
        made += 1

    async def other() -> None:
        nonlocal made, most
        while True:
            most, made = max(most, made), 0
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await asyncio.gather(*(one(note) for _ in range(MANY)))
    running.cancel()
    return most


async def test_one_of_many_listeners_sends_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "encode", lambda _: b"{}")

    async def feed() -> AsyncIterator[None]:
        for _ in range(100):
            yield None

    async def listener(note: Callable[[], None]) -> None:
        class Reply:
            async def send(self, *_: Any, **__: Any) -> None:
                note()

        reply: Any = Reply()
        await events._send(reply, feed(), None, Pace())

    assert await most_at_once(listener) <= Pace.AT_ONCE


async def test_one_of_many_long_lists_is_serialized_at_a_time() -> None:
    async def answer(note: Callable[[], None]) -> None:
        items = range(10 * AT_ONCE)
        ready = await each(items, lambda item: note() if item >= AT_ONCE else None)
        assert len(ready) == len(items)

    assert await most_at_once(answer) <= AT_ONCE
