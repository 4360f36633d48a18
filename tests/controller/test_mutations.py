"""Concurrent changes take turns."""

import asyncio

import pytest

from tests.controller.fakes import Bench


async def test_simultaneous_decisions_yield_to_the_event_loop(bench: Bench) -> None:
    passes = 0
    over = asyncio.Event()

    async def others() -> None:
        nonlocal passes
        while not over.is_set():
            passes += 1
            await asyncio.sleep(0)

    going_on = asyncio.create_task(others())
    turn = bench.controller._mutations._turn
    seen = await asyncio.gather(*(turn(lambda: passes) for _ in range(100)))
    over.set()
    await going_on
    assert seen == sorted(seen)
    assert len(set(seen)) == len(seen)


async def test_a_single_decision_does_not_wait(bench: Bench) -> None:
    deciding = bench.controller._mutations._turn(lambda: "decided")
    with pytest.raises(StopIteration, match="decided"):  # it completes in one step
        deciding.send(None)
