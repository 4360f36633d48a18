"""Long answers leave the event loop to others."""

import asyncio

import msgspec

from reconciler.api.encode import encode
from reconciler.api.pieces import AT_ONCE, each, encoded


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


async def test_items_are_json_before_the_answer_is_put_together() -> None:
    items = await encoded(["a", "\udcff"], lambda text: {"name": text})
    assert [type(item) for item in items] == [msgspec.Raw, msgspec.Raw]
    whole = b'[{"name":"a"},{"name":"\xef\xbf\xbd"}]'
    assert encode({"items": items}) == b'{"items":' + whole + b"}"
    broken = encode({"\udcff": items})  # also where the rest of it cannot be encoded at once
    assert broken == b'{"\xef\xbf\xbd":' + whole + b"}"
