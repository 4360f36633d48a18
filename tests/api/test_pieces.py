"""Long answers leave the event loop to others."""

import asyncio

from reconciler.api.pieces import AT_ONCE, each


async def test_others_run_between_the_pieces_of_a_long_answer() -> None:
    made: list[int] = []
    seen: list[int] = []

    def serialize(item: int) -> int:
        made.append(item)
        return -item

    async def other() -> None:
        while True:
            seen.append(len(made))
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    answer = await each(range(5 * AT_ONCE), serialize)
    running.cancel()
    assert answer == [-item for item in range(5 * AT_ONCE)]
    assert seen == [AT_ONCE * n for n in range(1, 6)]
