"""Serialization of long responses in chunks that yield to the event loop."""

import asyncio

import msgspec

from reconciler.api.encode import encode
from reconciler.api.pieces import AT_ONCE, each, encoded


async def test_other_tasks_run_between_chunks_of_a_long_response() -> None:
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


async def test_items_are_encoded_before_the_response_is_assembled() -> None:
    items = await encoded(["a", "\udcff"], lambda text: {"name": text})
    assert [type(item) for item in items] == [msgspec.Raw, msgspec.Raw]
    whole = b'[{"name":"a"},{"name":"\xef\xbf\xbd"}]'
    assert encode({"items": items}) == b'{"items":' + whole + b"}"
    broken = encode({"\udcff": items})  # even if the rest cannot be encoded directly
    assert broken == b'{"\xef\xbf\xbd":' + whole + b"}"
