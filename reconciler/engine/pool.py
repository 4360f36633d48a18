"""Keeps a spare worker with its imports done, ready to read a checkpoint immediately.

The first worker reports what the machine offers, and waits for the first load. A replacement is
started shortly after each load. Without a spare (`--spare-workers 0`), workers start on demand.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from reconciler.core.errors import LoadError
from reconciler.core.facts import Machine
from reconciler.engine import exit_reason
from reconciler.engine.process import WorkerProcess

WARM_AFTER_SECONDS = 1.0
"""Delay after a load: a worker's imports would slow down its first requests."""

BUSY_SECONDS = 0.5
"""Time that a load waits for a spare that builds another model; most builds are shorter."""

START_SECONDS = 120.0
"""Timeout for a worker's imports, which take seconds."""


class Pool:
    """Provides the spare worker and starts the next one."""

    def __init__(
        self,
        sockets: Path,
        wired_limit: str = "off",
        stall_budget: float = math.inf,
        *,
        spare: bool = True,
    ) -> None:
        """`spare`: True if a worker is started before it is needed."""
        self._sockets = sockets
        self._keep_spare = spare
        self._wired_limit, self._stall_budget = wired_limit, stall_budget
        self._spare: asyncio.Task[WorkerProcess] | None = None
        self._watch: asyncio.Task[None] | None = None
        """Task that watches the spare."""
        self._timer: asyncio.TimerHandle | None = None
        self._lending = asyncio.Lock()
        self._busy: WorkerProcess | None = None
        """The spare while it is lent."""
        self._returned = asyncio.Event()

    def warm(self) -> None:
        """Start a spare worker after a delay, unless one exists by then or spares are disabled."""
        if self._keep_spare and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(WARM_AFTER_SECONDS, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._warm()

    async def machine(self) -> Machine:
        """Return the spare's facts about the machine. Raises `LoadError` as `borrow`."""
        worker = await self.borrow()
        return (await worker.ready()).machine

    async def borrow(self) -> WorkerProcess:
        """Return the spare without taking it. Raises `LoadError` if no worker can be started."""
        while True:
            spare = self._warm()
            worker = await self._ready(spare)
            if self._spare is not spare:
                continue  # another caller took it in the meantime
            if worker.alive:
                return worker
            self._spare = None
            await worker.end()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[WorkerProcess]:
        """Lend the spare to one borrower at a time, so that none waits for the work of another.

        Raises as `borrow`.
        """
        async with self._lending:
            self._busy = worker = await self.borrow()
            try:
                yield worker
            finally:
                self._busy = None
                self._returned.set()

    async def take(self) -> WorkerProcess:
        """Take ownership of the spare worker. Call `warm` afterwards to start another.

        A lent spare is left to its borrower: a load must not wait for, or fail with, the build of
        another checkpoint. Raises `LoadError` if no worker can be started.
        """
        waited = False
        while True:
            spare = self._warm()
            worker = await self._ready(spare)
            if self._spare is not spare:
                continue  # another caller took it in the meantime
            if self._busy is worker:
                if waited:
                    return await self._start()
                waited = True
                await self._until_returned()
                continue
            self._spare = None
            if self._watch is not None:
                self._watch.cancel()
            if worker.alive:
                return worker
            await worker.end()

    async def _until_returned(self) -> None:
        self._returned.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(BUSY_SECONDS):
                await self._returned.wait()

    async def close(self) -> None:
        """End the spare."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.cancel()
            (result,) = await asyncio.gather(spare, return_exceptions=True)
            if isinstance(result, WorkerProcess):
                await result.end()

    def _warm(self) -> asyncio.Task[WorkerProcess]:
        if self._spare is None:
            self._spare = asyncio.create_task(self._start())
            self._watch = asyncio.create_task(self._replace(self._spare))
        return self._spare

    async def _replace(self, spare: asyncio.Task[WorkerProcess]) -> None:
        """Start another spare if this one dies; one that failed to start is retried on demand.

        The failure to start is raised to the callers that wait for it, but not to later ones.
        """
        try:
            worker = await asyncio.shield(spare)
        except LoadError:
            if self._spare is spare:
                self._spare = None
            return
        await worker.wait()
        if self._spare is spare:
            self._spare = None
            await worker.end()
            self.warm()

    async def _ready(self, spare: asyncio.Task[WorkerProcess]) -> WorkerProcess:
        try:
            # A caller may be cancelled; the spare is shared.
            return await asyncio.shield(spare)
        except Exception:
            if self._spare is spare:
                self._spare = None
            raise

    async def _start(self) -> WorkerProcess:
        worker = await WorkerProcess.start(self._sockets, self._wired_limit, self._stall_budget)
        try:
            async with asyncio.timeout(START_SECONDS):
                await worker.ready()
        except TimeoutError:
            worker.kill(
                exit_reason.of_hang(worker.pid, f"it did not start within {START_SECONDS:g} s")
            )
            await worker.end()
            raise LoadError(worker.died()) from None
        except BaseException:
            await worker.end()
            raise
        return worker
