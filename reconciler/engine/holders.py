"""Workers that hold a checkpoint: one per checkpoint, as long as it has sessions.

A worker ends with its last session, which frees all its memory. A worker that dies or hangs is
removed from the list before its end is reported.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from reconciler.core.errors import LoadError, Problem
from reconciler.core.facts import Checkpoint
from reconciler.core.protocol import Lease, LoadWeights, Pulse, Recall, Recalled, Usage
from reconciler.core.records import Phase, Progress
from reconciler.engine.liveness import watch
from reconciler.engine.log import Log
from reconciler.engine.pool import Pool
from reconciler.engine.process import WorkerProcess
from reconciler.engine.trials import Trials
from reconciler.host.looks import look
from reconciler.models.contents import fingerprint

log = structlog.get_logger()

ABANDON_SECONDS = 5.0
"""Time for a worker with other sessions to close an abandoned session."""

RECALL_SECONDS = 10.0
"""Time for a worker to lower leases between two steps. Hangs are detected elsewhere."""

FILES_SECONDS = 10.0
"""Time to look at a checkpoint's files after it was read; they count as changed afterwards."""

KEPT_LOGS = 200
"""Maximum number of instance logs kept, including those of unloaded instances."""


@dataclass(eq=False)
class Holder:
    """A worker that holds a checkpoint, as long as it has sessions."""

    worker: WorkerProcess
    path: str
    revision: str
    """Revision of the checkpoint when it was read."""
    fingerprint: str | None
    """State of its files when it was read; None if they changed meanwhile."""
    sessions: set[str] = field(default_factory=set)
    """Sessions that are open or about to be opened."""
    weights_bytes: int = 0
    """Size of the weights as observed after the load."""
    live_bytes: int = 0
    """Bytes last reported in use by the worker, without caches that it frees on demand."""
    watch: asyncio.Task[None] | None = None
    gone: bool = False
    """True if it has died or was ended deliberately; no new session may use it."""


class Holders:
    """Holders by checkpoint path. Used on the event loop only."""

    def __init__(
        self,
        pool: Pool,
        probe_interval: float,
        on_pulse: Callable[[Pulse], None],
        on_end: Callable[[Holder], None],
    ) -> None:
        """`on_pulse` is called with each pulse, `on_end` when a worker has ended unexpectedly.
        `probe_interval` is in seconds.
        """
        self._pool = pool
        self._probe_interval = probe_interval
        self._on_pulse, self._on_end = on_pulse, on_end
        self._holders: dict[str, Holder] = {}
        self._logs: dict[str, Log] = {}
        self._trials = Trials()

    def workers(self) -> list[WorkerProcess]:
        """Return the workers that hold a checkpoint."""
        return [holder.worker for holder in self._holders.values()]

    def live_memory(self) -> dict[str, int]:
        """Bytes last reported in use by the worker of each checkpoint, by path."""
        return {path: holder.live_bytes for path, holder in self._holders.items()}

    def log(self, name: str) -> Log | None:
        """Return the log of an instance's latest worker; None if it never had one."""
        return self._logs.get(name)

    async def close(self, problem: Problem) -> None:
        """End all workers; running requests fail with `problem`."""
        holders, self._holders = list(self._holders.values()), {}
        await asyncio.gather(*(self._end(holder, problem) for holder in holders))

    async def recall(self, leases: Mapping[str, Lease]) -> dict[str, int]:
        """Lower the leases of sessions; returns the bytes that running requests of each still use.

        Omits sessions whose worker does not answer: their memory use is unknown.
        """
        asked: dict[Holder, dict[str, Lease]] = {}
        for holder in self._holders.values():
            theirs = {s: lease for s, lease in leases.items() if s in holder.sessions}
            if theirs and not holder.gone:
                asked[holder] = theirs
        answers = await asyncio.gather(*(self._recall(h, theirs) for h, theirs in asked.items()))
        return {session: size for answer in answers for session, size in answer.items()}

    async def _recall(self, holder: Holder, leases: dict[str, Lease]) -> dict[str, int]:
        try:
            async with asyncio.timeout(RECALL_SECONDS):
                answer = await holder.worker.ask("POST", "leases", Recall(leases), Recalled)
        except (LoadError, TimeoutError) as error:
            reason = error.problem.message if isinstance(error, LoadError) else "it is busy"
            log.warning("memory was not released", pid=holder.worker.pid, reason=reason)
            return {}
        holder.live_bytes = answer.live_bytes
        return answer.in_use

    async def hold(
        self,
        name: str,
        checkpoint: Checkpoint,
        session: str,
        begin: float,
        phases: dict[str, Phase],
        progress: Callable[[Progress], None],
    ) -> Holder:
        """Return a worker that holds the checkpoint, with `session` registered."""
        holder = self._holders.get(checkpoint.path)
        if holder is not None:
            holder.sessions.add(session)
            self._note_log(name, holder.worker)
            return holder
        progress(Progress("worker"))
        worker = await self._pool.take()
        self._note_log(name, worker)
        revision, state = checkpoint.base_revision, checkpoint.fingerprint
        holder = Holder(worker, checkpoint.path, revision, state, {session})
        self._holders[checkpoint.path] = holder
        holder.watch = asyncio.create_task(self._watch(holder))
        start = time.monotonic() - begin
        phases["worker"] = Phase(0.0, start)
        try:
            loaded = await worker.load_weights(
                LoadWeights(
                    checkpoint.path,
                    checkpoint.embedder,
                    checkpoint.reranker,
                    self._trials.passed(holder.path, state),
                ),
                lambda read: progress(Progress("weights", read.bytes_read, read.bytes_total)),
            )
            if not await _unchanged(checkpoint):
                log.warning("files changed while they were read", name=name, path=holder.path)
                holder.fingerprint = None
        except BaseException:
            await self.release(holder, session)
            raise
        for key, phase in loaded.phases.items():
            phases[key] = Phase(start + phase.start, phase.duration)
        holder.weights_bytes = loaded.weights_bytes
        return holder

    def remember_trial(self, holder: Holder, together: tuple[str, ...]) -> None:
        """Remember `SessionOpened.together` for the next load of the same files."""
        if holder.fingerprint is not None:
            self._trials.remember(holder.path, holder.fingerprint, together)

    def _note_log(self, name: str, worker: WorkerProcess) -> None:
        """Register the log of an instance's latest worker; it outlives the worker."""
        self._logs.pop(name, None)
        self._logs[name] = worker.log
        if len(self._logs) > KEPT_LOGS:
            del self._logs[next(iter(self._logs))]

    async def abandon(self, holder: Holder, session: str) -> None:
        """Close a session that may be open in a worker that others use."""
        if holder.sessions - {session} and not holder.gone:
            with contextlib.suppress(LoadError, TimeoutError):
                async with asyncio.timeout(ABANDON_SECONDS):
                    await holder.worker.ask("DELETE", f"sessions/{session}", None, Usage)
        await self.release(holder, session)

    async def release(self, holder: Holder, session: str) -> None:
        """Remove a session; the worker ends with its last one, which frees all its memory."""
        holder.sessions.discard(session)
        holder.live_bytes = 0  # unknown until the next pulse
        if not holder.sessions and not holder.gone:
            if self._holders.get(holder.path) is holder:
                del self._holders[holder.path]
            await self._end(holder)

    async def _end(self, holder: Holder, problem: Problem | None = None) -> None:
        holder.gone = True
        if holder.watch is not None:
            holder.watch.cancel()
        await holder.worker.end(problem)

    async def _watch(self, holder: Holder) -> None:
        """Monitor a worker until it dies or hangs."""

        def on_pulse(pulse: Pulse) -> None:
            self._on_pulse(pulse)
            holder.live_bytes = max(0, pulse.memory_bytes - pulse.kept_bytes)

        await watch(holder.worker, self._probe_interval, on_pulse)
        holder.gone = True
        if self._holders.get(holder.path) is holder:
            del self._holders[holder.path]
        self._on_end(holder)
        await holder.worker.end()


async def _unchanged(checkpoint: Checkpoint) -> bool:
    """True if a checkpoint's files are still those that were found."""
    try:
        now = await look(fingerprint, Path(checkpoint.path), seconds=FILES_SECONDS)
    except (LoadError, TimeoutError):
        return False
    return now == checkpoint.fingerprint
