"""Loaded instances: one worker process per checkpoint, one session in it per instance.

The engine carries out the plan's actions and reports what workers observed. Its list of loaded
instances is always accurate: the instances of a worker that dies are removed from it before the
death is reported.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Machine, Shapes
from reconciler.core.prompt_store import PromptStore
from reconciler.core.protocol import (
    CONTEXT_HEADER,
    LEASE_HEADER,
    MODEL_HEADER,
    NO_CONTEXT,
    Activity,
    Lease,
    Pulse,
    Reply,
    RequestContext,
    SeeShapes,
    Usage,
)
from reconciler.core.records import (
    Instance,
    LoadReport,
    LoadSpec,
    Phase,
    Progress,
)
from reconciler.core.settings import Resolved
from reconciler.engine import exit_reason
from reconciler.engine.holders import ABANDON_SECONDS, Holder, Holders
from reconciler.engine.log import Log
from reconciler.engine.opening import open_session, request_defaults, warnings
from reconciler.engine.pool import Pool
from reconciler.engine.prompt_disk import PromptDisk
from reconciler.engine.tokens import Tokens
from reconciler.host.looks import look

log = structlog.get_logger()

DRAIN_SECONDS = 30.0
"""Time for the running requests of an instance that is unloaded."""

PROBE_SECONDS = 30.0
"""Probe interval: a hung worker is detected within two intervals."""

PULSE_SECONDS = 1.0
"""Timeout of a worker's token counts; a request for metrics must not wait longer."""

REMOVAL_SECONDS = 60.0
"""Time limit to remove a model's prompts from disk."""

SHAPES_SECONDS = 10.0
"""Timeout for building a model without its weights, which takes milliseconds. Spare workers have no
other monitoring."""

ERROR_SECONDS = 3.0
"""Time for clients to read the error of their interrupted requests."""


@dataclass(eq=False)
class _Loaded:
    """An instance with its worker and its number of running requests."""

    instance: Instance
    holder: Holder
    session: str
    requests: int = 0
    draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Engine:
    """Loads and serves instances. Used on the event loop only."""

    def __init__(
        self,
        sockets: Path,
        on_death: Callable[[Instance, Problem], None],
        probe_interval: float = PROBE_SECONDS,
        wired_limit: str = "off",
        stall_budget: float = math.inf,
        *,
        spare: bool = True,
        prompts: PromptDisk | None = None,
    ) -> None:
        """`on_death` is called for each instance whose worker died.

        `wired_limit` applies to each worker: `off`, `recommended`, or a size.
        `stall_budget`: maximum gap in a worker's streams while it prefills prompts [s].
        `spare`: True if a worker is started before it is needed.
        `prompts`: where prompts are kept on disk; None: nowhere.
        """
        self._prompts = prompts
        self._pool = Pool(sockets, wired_limit, stall_budget, spare=spare)
        self._on_death = on_death
        self._tokens = Tokens()
        self._holders = Holders(self._pool, probe_interval, self._tokens.read, self._died)
        self._loaded: dict[str, _Loaded] = {}
        self._outgoing: dict[str, Instance] = {}
        """Instances by session."""
        self._serial = itertools.count(1)
        self._requests = 0
        """Running requests of all instances, including replaced ones."""
        self._quiet = asyncio.Event()
        """Set when the last running request ends."""

    async def machine(self) -> Machine:
        """Return facts about this machine. Raises `LoadError` if no worker can be started."""
        return await self._pool.machine()

    async def shapes(self, checkpoint: Checkpoint) -> Shapes:
        """Return a checkpoint's shapes in memory. Raises `LoadError` if it cannot be built."""
        command = SeeShapes(checkpoint.path, checkpoint.embedder)
        async with self._pool.lent() as worker:
            try:
                async with asyncio.timeout(SHAPES_SECONDS):
                    return await worker.ask("POST", "shapes", command, Shapes)
            except TimeoutError:
                words = f"it did not build {checkpoint.path} within {SHAPES_SECONDS:.0f} s"
                problem = exit_reason.of_hang(worker.pid, words)
                worker.kill(problem)
                raise LoadError(problem) from None

    def instances(self) -> tuple[Instance, ...]:
        """Return the loaded instances."""
        return tuple(loaded.instance for loaded in self._loaded.values())

    async def load(
        self,
        name: str,
        spec: LoadSpec,
        checkpoint: Checkpoint,
        resolved: Resolved,
        progress: Callable[[Progress], None],
        *,
        unload_first: bool = False,
    ) -> Instance:
        """Load the instance `name` with `spec`, replacing the instance of that name, if any.

        Uses the worker that holds the checkpoint, or else a new one that reads it. The previous
        instance is unloaded after the new one has answered, or before the load if `unload_first`.
        `progress` is called with the progress of the load.

        Raises `LoadError`; the previous instance is then unchanged, unless it was unloaded first.
        The same holds if the caller cancels the load before the new instance is listed: a worker
        that reads weights for it is ended.
        """
        begin = time.monotonic()
        session = str(next(self._serial))
        old = self._loaded.get(name)
        if old is not None and unload_first:
            if old.holder.path == checkpoint.path:
                old.holder.sessions.add(session)  # keeps the worker and its weights loaded
            try:
                await self._end_session(old)
            except BaseException:
                await self._holders.release(old.holder, session)
                raise
        phases: dict[str, Phase] = {}
        try:
            holder = await self._holders.hold(name, checkpoint, session, begin, phases, progress)
            try:
                progress(Progress("warm_up"))
                defaults = request_defaults(spec, checkpoint)
                prompts = self._store(checkpoint, holder)
                opened = await open_session(
                    holder, session, spec, checkpoint, resolved, defaults, prompts
                )
            except BaseException:
                await self._holders.abandon(holder, session)
                raise
        finally:
            self._pool.warm()
        self._holders.remember_trial(holder, opened.together)
        elapsed = time.monotonic() - begin
        warm_up = opened.phases["warm_up"].duration
        phases["warm_up"] = Phase(elapsed - warm_up, warm_up)
        old = self._loaded.get(name)
        weights = holder.weights_bytes
        adapter = checkpoint.adapter
        instance = Instance(
            name,
            spec,
            checkpoint.path,
            opened.observed,
            weights,
            resolved.need.own,
            resolved.need.process,
            holder.worker.pid,
            # The weights may be older than the files; adapter and draft are read with each session.
            replace(checkpoint, commit=holder.revision).revision,
            LoadReport(
                elapsed,
                phases,
                weights + opened.memory_bytes,
                warnings(spec, checkpoint, resolved, opened),
            ),
            tuple(d for d in defaults if d.key not in opened.unused_defaults),
            adapter.path if adapter is not None else None,
            session,
            checkpoint.type,
            checkpoint.draft.path if checkpoint.draft is not None else None,
        )
        self._loaded[name] = _Loaded(instance, holder, session)
        self._tokens.open(session, name)
        if old is not None:
            self._outgoing[old.session] = old.instance
            try:
                await self._end_session(old)
            finally:
                del self._outgoing[old.session]
        return instance

    @contextlib.asynccontextmanager
    async def request(
        self,
        name: str,
        path: str,
        body: bytes,
        lease: Lease,
        context: RequestContext = NO_CONTEXT,
    ) -> AsyncIterator[Reply]:
        """Send a request to an instance. Raises `LoadError` if it is not loaded or its worker dies.

        `lease` is the memory that its KV cache may use in addition to the instance's reservation.
        """
        loaded = self._loaded.get(name)
        if loaded is None or loaded.draining:
            message = f"'{name}' is not loaded now"
            raise LoadError(Problem(Reason.NOT_LOADED, message, permanent=False))
        loaded.requests += 1
        self._requests += 1
        try:
            path = f"sessions/{loaded.session}/{path}"
            headers = {
                MODEL_HEADER: name,
                LEASE_HEADER: lease.header(),
                CONTEXT_HEADER: context.header(),
            }
            async with loaded.holder.worker.stream(path, body, headers) as reply:
                yield reply
        finally:
            loaded.requests -= 1
            self._requests -= 1
            if not loaded.requests:
                loaded.idle.set()
            if not self._requests:
                self._quiet.set()

    async def unload(self, name: str) -> None:
        """Let running requests finish, then unload the instance."""
        loaded = self._loaded.get(name)
        if loaded is not None:
            await self._end_session(loaded)

    async def recall(self, leases: Mapping[str, Lease]) -> dict[str, int]:
        """Lower the leases of sessions; returns the bytes that running requests of each still use.

        Omits sessions whose worker does not answer: their memory use is unknown.
        """
        return await self._holders.recall(leases)

    def outgoing(self) -> tuple[Instance, ...]:
        """Return replaced instances with running requests; their memory is not free yet."""
        return tuple(self._outgoing.values())

    def live_memory(self) -> Mapping[str, int]:
        """Bytes last reported in use by the worker of each checkpoint, by path."""
        return self._holders.live_memory()

    async def tokens(self) -> dict[str, Usage]:
        """Tokens computed per instance since the daemon started, by name.

        For a worker that does not answer, the last known counts are returned.
        """
        for pulse in await self._pulses():
            self._tokens.read(pulse)
        return self._tokens.totals()

    async def activity(self) -> dict[str, Activity]:
        """KV cache use per instance, by name, without workers that do not answer."""
        found = {s: one for pulse in await self._pulses() for s, one in pulse.activity.items()}
        loaded = self._loaded.items()
        return {name: found[one.session] for name, one in loaded if one.session in found}

    def _store(self, checkpoint: Checkpoint, holder: Holder) -> PromptStore | None:
        """Location of an instance's prompts on disk; None if none are kept."""
        if self._prompts is None or checkpoint.embedder is not None or holder.fingerprint is None:
            return None
        return self._prompts.store(checkpoint, holder.fingerprint)

    async def prompts_bytes(self) -> int:
        """Size of the prompts on disk; 0 if the disk does not answer in time."""
        if self._prompts is None:
            return 0
        try:
            return await look(self._prompts.size, seconds=PULSE_SECONDS)
        except (OSError, TimeoutError):
            return 0

    async def remove_prompts(self, folder: Path) -> None:
        """Remove the prompts on disk of all models in a folder. Raises OSError or TimeoutError."""
        if self._prompts is not None:
            await look(self._prompts.remove, folder, seconds=REMOVAL_SECONDS)

    async def _pulses(self) -> list[Pulse]:
        """Pulses of the workers that answer in time."""
        pulses = await asyncio.gather(
            *(worker.pulse(PULSE_SECONDS) for worker in self._holders.workers())
        )
        return [pulse for pulse in pulses if pulse is not None]

    def retain_only(self, names: Collection[str]) -> None:
        """Drop the token counts of all other instances; a name that returns counts from zero."""
        self._tokens.retain_only(names)

    def log(self, name: str) -> Log | None:
        """Return the log of an instance's latest worker; None if it never had one."""
        return self._holders.log(name)

    async def drain(self, at_once: asyncio.Event) -> None:
        """Wait for running requests, at most for the drain time or until `at_once` is set."""
        self._quiet.clear()
        if not self._requests:
            return
        log.info("waiting for running requests", requests=self._requests, seconds=DRAIN_SECONDS)
        waits = [asyncio.create_task(event.wait()) for event in (self._quiet, at_once)]
        try:
            await asyncio.wait(waits, timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._requests:
            log.warning("running requests are interrupted", requests=self._requests)

    async def close(self) -> None:
        """End all workers; running requests fail because the daemon is stopping."""
        await self._pool.close()
        self._loaded.clear()
        stopping = Problem(Reason.STOPPING, "the daemon is stopping", permanent=False)
        await self._holders.close(stopping)
        if self._requests:
            self._quiet.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ERROR_SECONDS):
                    await self._quiet.wait()

    async def _end_session(self, loaded: _Loaded) -> None:
        """Reject new requests, wait for running ones up to the drain time, then close the session.

        If the caller cancels this, the instance either serves again or is gone.
        """
        loaded.draining = True
        try:
            await self._drained(loaded)
        except asyncio.CancelledError:
            loaded.draining = False
            raise
        closing = asyncio.create_task(self._let_go(loaded))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait({closing}, timeout=ABANDON_SECONDS)
            raise

    async def _drained(self, loaded: _Loaded) -> None:
        """Wait for running requests, at most for the drain time."""
        loaded.idle.clear()
        if loaded.requests:
            try:
                async with asyncio.timeout(DRAIN_SECONDS):
                    await loaded.idle.wait()
            except TimeoutError:
                name, count = loaded.instance.name, loaded.requests
                log.warning("requests did not finish in time", name=name, requests=count)

    async def _let_go(self, loaded: _Loaded) -> None:
        """Close an instance; it stays listed until its memory is free."""
        self._tokens.close(loaded.session, await self._close_session(loaded))
        await self._holders.release(loaded.holder, loaded.session)
        name = loaded.instance.name
        if self._loaded.get(name) is loaded:
            del self._loaded[name]

    async def _close_session(self, loaded: _Loaded) -> Usage | None:
        """Close a session, unless its worker is about to end; returns its final token counts."""
        holder, session = loaded.holder, loaded.session
        if holder.gone:
            return None
        if not holder.sessions - {session}:
            pulse = await holder.worker.pulse(PULSE_SECONDS)
            if not holder.sessions - {session}:
                return pulse.usage.get(session) if pulse is not None else None
        try:
            return await holder.worker.ask("DELETE", f"sessions/{session}", None, Usage)
        except LoadError as error:
            log.warning("session could not be closed", reason=error.problem.message)
            return None

    def _died(self, holder: Holder) -> None:
        """Remove the instances of a dead worker from the list, and report their deaths."""
        held = [loaded for loaded in self._loaded.values() if loaded.holder is holder]
        for loaded in held:
            del self._loaded[loaded.instance.name]
            self._tokens.close(loaded.session)
        dead = [loaded.instance for loaded in held]
        problem = holder.worker.died()
        names = [instance.name for instance in dead]
        log.warning("worker died", pid=holder.worker.pid, instances=names, reason=problem.message)
        for instance in dead:
            self._on_death(instance, problem)
