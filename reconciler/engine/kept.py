"""Memory that workers fill with KV caches of finished requests, as long as nobody needs it."""

import asyncio
from collections.abc import Iterable

import structlog

from reconciler.core.errors import LoadError
from reconciler.engine.process import WorkerProcess

log = structlog.get_logger()

PATIENCE_SECONDS = 10.0
"""A worker gives memory back between two steps; that one hangs is noticed elsewhere."""


async def release(workers: Iterable[WorkerProcess]) -> None:
    """Have workers give back what is not held for their sessions. Raises nothing."""
    await asyncio.gather(*(_release(worker) for worker in workers))


async def _release(worker: WorkerProcess) -> None:
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await worker.ask("POST", "release", None, type(None))
    except (LoadError, TimeoutError) as error:
        reason = error.problem.message if isinstance(error, LoadError) else "it is busy"
        log.warning("kept prompts were not given back", pid=worker.pid, reason=reason)
