"""Entry points for the API, and the lifecycle of the reconciler and the source syncs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from reconciler.controller.actions import Engine
from reconciler.controller.clock import Clock, SystemClock
from reconciler.controller.dry_run import DryRun, DryRuns, Estimate, PlanRequest
from reconciler.controller.events import Events
from reconciler.controller.lookups import Lookups
from reconciler.controller.metrics import Metrics
from reconciler.controller.mutations import Mutations, unknown_record
from reconciler.controller.pulling import Pulled, pull
from reconciler.controller.reconciler import Reconciler
from reconciler.controller.registry import Registry
from reconciler.controller.removal import Removal
from reconciler.controller.resolver import CheckpointResolver
from reconciler.controller.routing import Availability, Router
from reconciler.controller.source_sync import Source, SourceError, SourceSync
from reconciler.controller.state import RecordView
from reconciler.controller.warming import Reader, Warming
from reconciler.core.absorb import NO_LABELS
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.events import LogLine
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.memory import Ledger, MemoryPolicy
from reconciler.core.protocol import NO_CONTEXT, Activity, Reply, RequestContext, Usage
from reconciler.core.records import (
    HTTP,
    Generation,
    Instance,
    LoadRequest,
    LoadSpec,
    ModelRef,
    Record,
    SettingWarning,
)
from reconciler.models.catalog import Catalog, CatalogEntry
from reconciler.models.download import Downloads, Job
from reconciler.models.hub_search import HubSearch
from reconciler.store import Store, UnwritableError

log = structlog.get_logger()

STOPPING = Problem(Reason.STOPPING, "the daemon is stopping", permanent=False)


class Controller:
    """Owns the records. Used on the event loop only."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        engine: Callable[[Callable[[Instance, Problem], None]], Engine],
        sources: Sequence[Source],
        clock: Clock | None = None,
        *,
        hub_cache: Path,
        jit: bool = False,
        labels: Mapping[str, str] = NO_LABELS,
        boot_id: str = "",
        memory: MemoryPolicy | None = None,
        read_ahead: Reader | None = None,
    ) -> None:
        """Wire the parts together; nothing starts before `start`.

        `jit`: True if a request for a model without a record loads it. Models are downloaded to
        `hub_cache`. `labels` are this node's, matched by the node selectors of manifests.
        `boot_id` identifies this boot of the machine; empty if unknown.
        `memory` sets the memory budget and the eviction policy. `read_ahead` reads the files of
        records that are kept warm; None: nothing does.
        """
        self.labels = labels
        self._clock = clock or SystemClock()
        self._registry = Registry(store, self._clock)
        self._engine = engine(self._worker_died)
        self.hub_search = HubSearch()
        self.downloads = Downloads(hub_cache, self._downloaded)
        self.metrics = Metrics()
        policy = memory or MemoryPolicy()
        wake = self._registry.wake.set
        self._resolver = CheckpointResolver(catalog, self._engine, self._clock, wake)
        self._lookups = Lookups(self._resolver, self.downloads, self._clock, wake)
        self._reconciler = Reconciler(
            self._registry, self._lookups, self._engine, self.metrics, policy
        )
        self._mutations = Mutations(
            self._registry, self._lookups, self._reconciler, self._engine, labels
        )
        self._router = Router(self._registry, self._reconciler, self._engine, self.load, jit=jit)
        self._looks: set[asyncio.Task[None]] = set()
        """Source checks started in the background, without a waiter."""
        self._feeds = [SourceSync(source, self._registry, labels) for source in sources]
        self._dry_runs = DryRuns(
            self._registry, self._lookups, self._reconciler, self._feeds, labels
        )
        self.removal = Removal(
            self._registry, self._lookups, self._engine, self.downloads, hub_cache
        )
        self._warming = Warming(
            self._registry,
            self._lookups,
            self._clock,
            lambda: {path for one in self._engine.instances() for path in one.directories},
            lambda: bool(self._reconciler.running),
        )
        self._read_ahead = read_ahead
        self._tasks: list[asyncio.Task[None]] = []
        self._boot_id = boot_id
        self._evicts = policy.evict_idle
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Load the stored records and start to reconcile. Raises `UnwritableError`."""
        self._registry.open({HTTP, *(feed.name for feed in self._feeds)}, self._boot_id)
        runners = [self._reconciler.run(), *(feed.run() for feed in self._feeds)]
        if self._read_ahead is not None:
            runners.append(self._warming.run(self._read_ahead))
        self._tasks = [asyncio.create_task(runner) for runner in runners]

    async def close(self, at_once: asyncio.Event | None = None) -> None:
        """Stop reconciling and end all workers; records are kept.

        With `at_once`, running requests may finish until it is set, for 30 s at most; new requests
        are rejected.
        """
        self._stopping.set()
        self._registry.events.close()
        tasks = [*self._tasks, *self._looks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._router.close()
        await self.downloads.close()
        await self._lookups.close()
        await self._resolver.close()
        await self._reconciler.close()
        for state in self._registry.states.values():
            state.fail_waiters(STOPPING)
        # Persist the stop before waiting for workers: if the daemon is killed during that wait, the
        # next start must not attribute a crash to a model.
        await self._note_stop()
        if at_once is not None:
            await self._engine.drain(at_once)
        await self._engine.close()

    async def _note_stop(self) -> None:
        """Record the clean end of this run; otherwise the next start counts it as a crash."""
        try:
            await self._mutations.when_unlocked(self._registry.close)
        except UnwritableError as error:
            log.warning("could not record the clean stop", why=error.problem.message)

    async def load(
        self, request: LoadRequest, on_name: Callable[[str], None] = lambda _name: None
    ) -> RecordView:
        """Satisfy a load request and return the resulting record. Raises `LoadError`.

        `on_name` is called with the record's name as soon as it is decided.
        """
        return await self._mutations.load(request, on_name)

    async def put(self, name: str, spec: LoadSpec, *, wait: bool = False) -> RecordView:
        """Store a spec as given, replacing the http record of that name.

        Returns immediately, or with `wait` once it is loaded. Raises `LoadError`.
        """
        return await self._mutations.put(name, spec, wait=wait)

    async def unload(self, name: str) -> None:
        """Remove an http record; returns when its instance is unloaded. Raises `LoadError`."""
        await self._mutations.unload(name)

    def clear(self, name: str) -> RecordView:
        """Clear a record's failures and crashes and retry it immediately. Raises `LoadError`."""
        return self._mutations.clear(name)

    async def dry_run(self, request: PlanRequest) -> DryRun:
        """Preview the changes and actions of a request without applying it. Raises `LoadError`."""
        return await self._dry_runs.dry_run(request)

    async def estimate(self, request: LoadRequest) -> Estimate:
        """Estimate the memory that a load needs, without loading. Raises `LoadError`."""
        return await self._dry_runs.estimate(request)

    def answer(self, name: str) -> RecordView | None:
        """Return a record with its current status."""
        state = self._registry.states.get(name)
        return state.view if state is not None else None

    def answers(self) -> tuple[RecordView, ...]:
        """Return all records with their status, sorted by name."""
        return tuple(self.each_answer())

    def each_answer(self) -> Iterator[RecordView]:
        """Iterate over the same records lazily, each in its state at the time of iteration."""
        states = self._registry.states
        return (state.view for name in sorted(states) if (state := states.get(name)) is not None)

    def is_gone(self, name: str) -> bool:
        """True if no record, instance or action has that name."""
        return self._reconciler.is_gone(name)

    @property
    def sources(self) -> tuple[SourceSync, ...]:
        """Syncs of the manifest sources."""
        return tuple(self._feeds)

    def look_at_sources(self) -> None:
        """Start a sync of every source that is not suspended."""
        for feed in self._feeds:
            if not feed.suspended:
                task = asyncio.create_task(feed.look())
                self._looks.add(task)
                task.add_done_callback(self._looks.discard)

    def source(self, name: str) -> SourceSync:
        """Return the source of that name. Raises `LoadError`."""
        for feed in self._feeds:
            if feed.name == name:
                return feed
        words = f"there is no source '{name}'"
        raise LoadError(Problem(Reason.UNKNOWN_SOURCE, words, param="name"))

    async def ready_for(self, model: str, idle_ttl_seconds: int | None = None) -> str:
        """Wait for an instance that serves `model` and return its name. Raises `LoadError`.

        The instance is guaranteed to serve only until the next await: an update may begin then.
        """
        while (name := None if self.stopping else self._router.serving(model)) is None:
            await self._until_ready(model, idle_ttl_seconds)
        return name

    async def _until_ready(self, model: str, idle_ttl_seconds: int | None) -> None:
        stop = asyncio.create_task(self._stopping.wait())
        ready = asyncio.create_task(self._router.until_ready(model, idle_ttl_seconds))
        try:
            await asyncio.wait({stop, ready}, return_when=asyncio.FIRST_COMPLETED)
            if self.stopping:
                raise LoadError(STOPPING)
            ready.result()
        finally:
            stop.cancel()
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)

    def can_answer(self, model: str) -> bool:
        """True if a request for `model` can be served now or after an idle instance reloads."""
        return not self.stopping and self._router.can_answer(model)

    def named(self, name: str) -> str | None:
        """Return the record of that name, or else the record with that alias."""
        return self._registry.named(name)

    def aliases(self, record: Record) -> tuple[str, ...]:
        """Aliases of a record that are in force."""
        return self._registry.aliases.in_force(record, self._registry.records)

    def alias_warnings(self, record: Record) -> tuple[SettingWarning, ...]:
        """Warnings about aliases of a record that are not in force."""
        return self._registry.aliases.warnings(record, self._registry.records)

    def records_of(self, model: str) -> tuple[Record, ...]:
        """Return the record of that name or alias, or else the records of that model."""
        return tuple(state.record for state in self._registry.candidates(model))

    def serves(self, model: str) -> bool:
        """True if a loaded instance serves `model`."""
        return self._router.serving(model) is not None

    def facts(self, name: str) -> Checkpoint | None:
        """Checkpoint last found for a record's model."""
        state = self._registry.states.get(name)
        return None if state is None else self._lookups.checkpoint(state.record.spec.ref)

    def seconds_left(self, name: str) -> float | None:
        """Seconds until an unused instance becomes idle; None without an idle TTL."""
        state = self._registry.states.get(name)
        ttl = None if state is None else state.record.spec.idle_ttl_seconds
        if state is None or ttl is None:
            return None
        used = self._clock.monotonic() if state.busy else state.used_at
        return max(0.0, used + ttl - self._clock.monotonic())

    def availability(self, model: str) -> Availability | None:
        """State in which a request for `model` would find it; None if the request would fail."""
        return self._router.availability(model)

    @property
    def jit(self) -> bool:
        """True if a request for a model without a record loads it."""
        return self._router.jit

    def why_not_ready(self, model: str) -> str:
        """Explain why the record that would serve `model` is not ready."""
        return self._router.why_not_ready(model)

    @asynccontextmanager
    async def request(
        self, name: str, path: str, body: bytes, context: RequestContext = NO_CONTEXT
    ) -> AsyncIterator[Reply]:
        """Stream a request to an instance. Raises `LoadError`."""
        if self.stopping:
            raise LoadError(STOPPING)
        state = self._registry.states.get(name)
        if state is None:
            message = f"'{name}' is not loaded now"
            raise LoadError(Problem(Reason.NOT_LOADED, message, permanent=False, param="model"))
        state.begin_request()
        try:
            async with (
                self._reconciler.leases.lease(name) as lease,
                self._engine.request(name, path, body, lease, context) as reply,
            ):
                self.metrics.answered(name, reply.status)
                yield reply
        finally:
            state.end_request(self._clock.monotonic())
            if state.record.spec.idle_ttl_seconds is not None or self._evicts:
                self._registry.wake.set()

    def complaints(self, record: Record) -> tuple[SourceError, ...]:
        """Source errors because of which a record does not match its manifest."""
        views = (feed.view for feed in self._feeds)
        return tuple(c for view in views if view is not None for c in view.complaints(record))

    def history(self, name: str | None) -> Iterator[Generation]:
        """Iterate over the kept generations of a record, or of all records, newest first."""
        return self._registry.store.history(name)

    def log(
        self, name: str, after: str | None = None, *, follow: bool
    ) -> AsyncIterator[LogLine | None] | None:
        """Lines written by the latest worker process of an instance, and future ones with `follow`.

        See `Log.follow`. None if it has had no worker since the daemon started.
        """
        log = self._engine.log(name)
        return log.follow(after, wait=follow) if log is not None else None

    @property
    def events(self) -> Events:
        """The event stream."""
        return self._registry.events

    def unknown_record(self, name: str) -> Problem:
        """Build the problem of an unknown record, with similar names."""
        return unknown_record(name, self._registry.states)

    async def pull(self, ref: ModelRef) -> Pulled:
        """Start a download, unless the model is on disk. Raises `LoadError`."""
        return await pull(self.downloads, self._lookups, ref)

    async def models(self) -> tuple[CatalogEntry, ...]:
        """List the models on disk."""
        return await self._resolver.listed()

    def instances(self) -> tuple[Instance, ...]:
        """List the loaded instances."""
        return self._engine.instances()

    async def tokens(self) -> Mapping[str, Usage]:
        """Tokens computed per instance since the daemon started, queried from the workers."""
        return await self._engine.tokens()

    async def prompts_bytes(self) -> int:
        """Size of the prompts that are kept on disk."""
        return await self._engine.prompts_bytes()

    async def activity(self) -> Mapping[str, Activity]:
        """KV cache use per instance, by name, queried from the workers."""
        return await self._engine.activity()

    def in_flight(self, name: str) -> int:
        """Number of requests in flight of an instance."""
        state = self._registry.states.get(name)
        return 0 if state is None else state.requests

    def memory(self) -> Ledger | None:
        """Memory use by holder; None until MLX has reported the machine."""
        machine = self.machine
        return self._reconciler.planning.held_memory(machine) if machine is not None else None

    def leased_memory(self) -> Mapping[str, int]:
        """Bytes that instances may take beside what is reserved for them, by checkpoint."""
        return self._reconciler.leases.by_checkpoint()

    @property
    def machine(self) -> Machine | None:
        """Facts about the machine; None until MLX has reported them."""
        machine = self._reconciler.machine
        return machine if isinstance(machine, Machine) else None

    @property
    def problem(self) -> Problem | None:
        """Problem that prevents all loading, if any."""
        if self.stopping:
            return STOPPING
        machine = self._reconciler.machine
        if isinstance(machine, Problem):
            return machine
        return self._registry.store.problem or self._reconciler.problem

    @property
    def stopping(self) -> bool:
        """True if the daemon rejects new requests."""
        return self._stopping.is_set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is evaluated after every change."""
        await self._registry.until(condition)

    def _downloaded(self, job: Job) -> None:
        """Look up a model again after its download."""
        self._lookups.forget(job.ref)
        self._registry.wake.set()

    def _worker_died(self, instance: Instance, problem: Problem) -> None:
        self._reconciler.worker_died(instance, problem)
