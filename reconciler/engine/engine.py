"""Loaded instances: one worker process per checkpoint, one session in it per instance.

Carries out the plan's actions and reports what workers observed. What it lists as loaded is
loaded: a worker that dies takes its instances out of the list before anybody is told.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint, Machine, Shapes
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
from reconciler.engine.tokens import Tokens

log = structlog.get_logger()

DRAIN_SECONDS = 30.0
"""For the running requests of an instance that goes."""

PROBE_SECONDS = 30.0
"""The probe interval: a worker that hangs is found within two."""

PULSE_SECONDS = 1.0
"""For a worker to say how many tokens it computed; who asks for metrics must not wait for long."""

SHAPES_SECONDS = 10.0
"""To build a model without its weights, which takes milliseconds; nobody watches a spare worker."""

ERROR_SECONDS = 3.0
"""For clients whose requests are cut off to be told why; one that does not read never is."""


@dataclass(eq=False)
class _Loaded:
    """An instance, where it is, and how many requests it answers."""

    instance: Instance
    holder: Holder
    session: str
    requests: int = 0
    draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)


class Engine:
    """What the controller drives. `on_death` is told of each instance whose worker died."""

    def __init__(
        self,
        sockets: Path,
        on_death: Callable[[Instance, Problem], None],
        probe_interval: float = PROBE_SECONDS,
        wired_limit: str = "off",
        *,
        spare: bool = True,
    ) -> None:
        """`wired_limit` is each worker's: `off`, `recommended`, or a size.

        `spare`: True if a worker is started before it is needed.
        """
        self._pool = Pool(sockets, wired_limit, spare=spare)
        self._on_death = on_death
        self._tokens = Tokens()
        self._holders = Holders(self._pool, probe_interval, self._tokens.read, self._died)
        self._loaded: dict[str, _Loaded] = {}
        self._outgoing: dict[str, Instance] = {}
        """By session."""
        self._serial = itertools.count(1)
        self._requests = 0
        """That run, of all instances, those that were replaced included."""
        self._quiet = asyncio.Event()
        """Set when the last of them ends."""

    async def machine(self) -> Machine:
        """Facts about this machine. Raises `LoadError` where no worker can be started."""
        return await self._pool.machine()

    async def shapes(self, checkpoint: Checkpoint) -> Shapes:
        """What a checkpoint works with in memory. Raises `LoadError` where it cannot be built."""
        command = SeeShapes(checkpoint.path, checkpoint.embedder)
        async with self._pool.lent() as worker:
            try:
                async with asyncio.timeout(SHAPES_SECONDS):
                    return await worker.ask("POST", "shapes", command, Shapes)
            except TimeoutError:
                words = f"it has not built {checkpoint.path} in {SHAPES_SECONDS:.0f} s"
                problem = exit_reason.of_hang(worker.pid, words)
                worker.kill(problem)
                raise LoadError(problem) from None

    def instances(self) -> tuple[Instance, ...]:
        """What is loaded and answers."""
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
        """Make the instance `name` be `spec`, in place of what it was; `progress` hears how far.

        A worker that holds the checkpoint is used; else one reads it. What was loaded under the
        name goes only when the new one has answered, or before if `unload_first`.
        Raises `LoadError`; then what was loaded is as it was, unless it had to go first. So it is
        where the caller cancels the load, before the new instance is listed: a worker that reads
        weights for it is ended.
        """
        begin = time.monotonic()
        session = str(next(self._serial))
        old = self._loaded.get(name)
        if old is not None and unload_first:
            if old.holder.path == checkpoint.path:
                old.holder.sessions.add(session)  # keeps the worker and its weights
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
                opened = await open_session(
                    holder, session, spec.config, checkpoint, resolved, defaults
                )
            except BaseException:
                await self._holders.abandon(holder, session)
                raise
        finally:
            self._pool.warm()
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
            # The weights may be older than the files; an adapter is read with each session.
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
        """Have an instance answer a request. Raises `LoadError`: it is not there, or it died.

        `lease` is the memory that its KV cache may take beside what is reserved for it.
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
        """Let its running requests finish, then let go of it."""
        loaded = self._loaded.get(name)
        if loaded is not None:
            await self._end_session(loaded)

    async def recall(self, leases: Mapping[str, Lease]) -> dict[str, int]:
        """Lower the leases of sessions; the bytes of each that running requests take all the same.

        Left out is a session whose worker does not answer: how much it takes is not known.
        """
        return await self._holders.recall(leases)

    def outgoing(self) -> tuple[Instance, ...]:
        """What was replaced and finishes what it was asked; its memory is not free yet."""
        return tuple(self._outgoing.values())

    def live_memory(self) -> Mapping[str, int]:
        """Bytes that the worker of each checkpoint was last seen to take, by path."""
        return self._holders.live_memory()

    async def tokens(self) -> dict[str, Usage]:
        """What instances computed since the daemon started, by name; what a worker that does not
        answer computed since it last did is left out.
        """
        for pulse in await self._pulses():
            self._tokens.read(pulse)
        return self._tokens.totals()

    async def activity(self) -> dict[str, Activity]:
        """The KV cache of instances, by name; left out where the worker does not answer."""
        found = {s: one for pulse in await self._pulses() for s, one in pulse.activity.items()}
        loaded = self._loaded.items()
        return {name: found[one.session] for name, one in loaded if one.session in found}

    async def _pulses(self) -> list[Pulse]:
        """What workers say of themselves, those that answer in time."""
        pulses = await asyncio.gather(
            *(worker.pulse(PULSE_SECONDS) for worker in self._holders.workers())
        )
        return [pulse for pulse in pulses if pulse is not None]

    def retain_only(self, names: Collection[str]) -> None:
        """Forget the tokens of others: a name that comes again counts from zero."""
        self._tokens.retain_only(names)

    def log(self, name: str) -> Log | None:
        """What the latest worker of an instance wrote; None: it never had one."""
        return self._holders.log(name)

    async def drain(self, at_once: asyncio.Event) -> None:
        """Wait until no request runs, for as long as one that goes waits, or until `at_once`."""
        self._quiet.clear()
        if not self._requests:
            return
        log.info("running requests may finish", requests=self._requests, seconds=DRAIN_SECONDS)
        waits = [asyncio.create_task(event.wait()) for event in (self._quiet, at_once)]
        try:
            await asyncio.wait(waits, timeout=DRAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._requests:
            log.warning("requests are cut off", requests=self._requests)

    async def close(self) -> None:
        """End all workers; requests that still run hear that the daemon is stopping."""
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
        """No new requests; those that are running get some time, and then it is closed.

        Where the caller cancels that, it answers again, or it is gone: nothing is between.
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
        """Wait for its requests, for so long."""
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
        """Close it in its worker, unless that is about to end with it; its last count of tokens."""
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
            log.warning("session did not end", reason=error.problem.message)
            return None

    def _died(self, holder: Holder) -> None:
        """Take the instances of a worker that ended by itself off the list, and say so."""
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
