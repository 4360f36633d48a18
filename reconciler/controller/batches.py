"""Answers concurrent questions in batches: a thousand simultaneous loads need one walk of the disk.

An answer comes from a walk that began after the question. Questions that arrive during a batch form
the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Batches(Generic[K, V]):
    """Calls `answer` with all keys asked for since the last batch. Used on the event loop only."""

    def __init__(
        self, answer: Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]]
    ) -> None:
        """`answer` returns a value or an exception per key; all callers get what it raises."""
        self._answer = answer
        self._asked: dict[K, asyncio.Future[V | Exception]] = {}
        self._runner: asyncio.Task[None] | None = None

    async def ask(self, key: K) -> V:
        """Return the answer for `key`, or raise it if it is an exception."""
        if key not in self._asked:
            self._asked[key] = asyncio.get_running_loop().create_future()
        future = self._asked[key]
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        # A caller may be cancelled; the answer is shared.
        answer = await asyncio.shield(future)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def idle(self) -> bool:
        """True if no question is pending."""
        return not self._asked and (self._runner is None or self._runner.done())

    async def close(self) -> None:
        """Cancel all pending questions."""
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
            except Exception as error:  # noqa: BLE001  raised to each caller
                for future in asked.values():
                    if not future.done():
                        future.set_result(error)
            finally:
                for future in asked.values():
                    future.cancel()


class Separate(Generic[K, V]):
    """Calls `answer` for each key separately, so that a slow key does not delay others.

    Concurrent questions about the same key still share an answer.
    """

    def __init__(self, answer: Callable[[K], Awaitable[V]]) -> None:
        self._answer = answer
        self._by_key: dict[K, Batches[None, V]] = {}

    async def ask(self, key: K) -> V:
        """Return the answer for `key`; raises the exceptions of `answer`."""
        for other in [k for k, batches in self._by_key.items() if batches.idle]:
            del self._by_key[other]
        batches = self._by_key.setdefault(key, Batches(partial(self._one, key)))
        return await batches.ask(None)

    async def close(self) -> None:
        """Cancel all pending questions."""
        for batches in list(self._by_key.values()):
            await batches.close()

    async def _one(self, key: K, asked: Sequence[None]) -> dict[None, V | Exception]:
        return dict.fromkeys(asked, await self._answer(key))
