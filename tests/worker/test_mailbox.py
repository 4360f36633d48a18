"""Test the calls that threads have an event loop make."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from reconciler.worker import mailbox
from reconciler.worker.mailbox import Mailbox


class Loop:
    """Records wake-ups, and makes the calls on request."""

    def __init__(self) -> None:
        self.wakes: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        self.wakes.append(call)

    call_soon = call_soon_threadsafe


def test_calls_posted_before_the_loop_runs_share_one_wake_up() -> None:
    loop: Any = Loop()
    box, made = Mailbox(loop), list[int]()
    for number in range(32):
        box.post(made.append, number)
    assert len(loop.wakes) == 1
    loop.wakes[0]()
    assert made == list(range(32))


def test_a_call_that_is_posted_while_others_are_made_wakes_the_loop_again() -> None:
    loop: Any = Loop()
    box, made = Mailbox(loop), list[str]()
    box.post(lambda: box.post(made.append, "later"))
    loop.wakes[0]()
    assert made == []
    assert len(loop.wakes) == 2
    loop.wakes[1]()
    assert made == ["later"]


def test_a_call_that_fails_does_not_keep_the_others_from_being_made() -> None:
    loop: Any = Loop()
    box, made = Mailbox(loop), list[str]()

    def fail() -> None:
        raise ValueError("broken")

    box.post(fail)
    box.post(made.append, "second")
    with pytest.raises(ValueError, match="broken"):
        loop.wakes[0]()
    for wake in loop.wakes[1:]:
        wake()
    assert made == ["second"]


def test_each_call_for_a_closed_loop_is_refused() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    box = Mailbox(loop)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="closed"):
            box.post(print)


async def test_calls_of_two_threads_arrive_complete_and_in_order() -> None:
    box = mailbox.of_running_loop()
    assert mailbox.of_running_loop() is box
    arrived = asyncio.Queue[tuple[str, int]]()

    def post(name: str) -> None:
        for number in range(2000):
            box.post(arrived.put_nowait, (name, number))

    threads = [threading.Thread(target=post, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    got = [await asyncio.wait_for(arrived.get(), 30) for _ in range(4000)]
    for thread in threads:
        thread.join()
    for name in "ab":
        assert [number for which, number in got if which == name] == list(range(2000))
