"""Questions that are answered together: a thousand loads at once need one look at the disk.

An answer comes from a look that began after the question. Those that come while others are
answered make the next batch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Batches(Generic[K, V]):
    """Asks `answer` about all keys that were asked for meanwhile. Used on the event loop only."""

    def __init__(
        self, answer: Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]]
    ) -> None:
        """What `answer` raises is raised to all; what is wrong with one key is its answer."""
        self._answer = answer
        self._asked: dict[K, asyncio.Future[V | Exception]] = {}
        self._runner: asyncio.Task[None] | None = None

    async def ask(self, key: K) -> V:
        """The answer for `key`; raises it if it is an exception."""
        if key not in self._asked:
            self._asked[key] = asyncio.get_running_loop().create_future()
        future = self._asked[key]
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        # Whoever waits may go away; the answer is everybody's.
        answer = await asyncio.shield(future)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Answer nobody any more."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        for future in self._asked.values():
            future.cancel()

    async def _run(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            try:
                answers = await self._answer(list(asked))
                for key, future in asked.items():
                    future.set_result(answers[key])
            except Exception as error:  # noqa: BLE001  raised where it was asked
                for future in asked.values():
                    if not future.done():
                        future.set_result(error)
            finally:
                for future in asked.values():
                    future.cancel()
