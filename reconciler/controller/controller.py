"""What the api asks, and the life of the loop and the feeds."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from reconciler.controller.book import Answer, Book, Entry, Found
from reconciler.controller.clock import Clock, SystemClock
from reconciler.controller.events import Events
from reconciler.controller.feed import Complaint, Feed, Source
from reconciler.controller.forecast import Change, Estimate, Forecast, Wishes
from reconciler.controller.inspector import Inspector
from reconciler.controller.loop import Engine, Loop
from reconciler.controller.metrics import Metrics
from reconciler.core.desired import NO_LABELS, Join, Memory, View, absorb, decide, put
from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.events import LogLine
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.memory import Ledger, MemoryPolicy
from reconciler.core.plan import Kind
from reconciler.core.protocol import Reply, Usage
from reconciler.core.records import (
    HTTP,
    Generation,
    Instance,
    LoadRequest,
    LoadSpec,
    Record,
    SettingWarning,
)
from reconciler.core.selector import unmet
from reconciler.core.settings import resolve
from reconciler.models.catalog import Catalog, Listed
from reconciler.models.download import Downloads, Job
from reconciler.store import Store

JIT_IDLE_TTL_SECONDS = 3600
"""Of a record that a request for a model made; LM Studio's default."""


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
    ) -> None:
        """With `jit`, a request for a model that nobody asked to load loads it.

        `hub_cache` is where models are downloaded to; by `labels` manifests pick this node;
        `boot_id` tells this start of the machine from others, empty where it is not known;
        `memory` says how memory is dealt out.
        """
        self.labels = labels
        self._clock = clock or SystemClock()
        self._book = Book(store, self._clock)
        self._engine = engine(self._worker_died)
        self.downloads = Downloads(hub_cache, self._downloaded)
        self.metrics = Metrics()
        self._inspector = Inspector(catalog, self._engine, self._book.wake.set)
        self._loop = Loop(
            self._book,
            self._inspector,
            self._engine,
            self.downloads,
            self.metrics,
            memory or MemoryPolicy(),
        )
        self._feeds = [Feed(source, self._book, labels) for source in sources]
        self._tasks: list[asyncio.Task[None]] = []
        self._boot_id = boot_id
        self._jit = jit
        self._evicts = memory is not None and memory.evict_idle
        self._jit_loads: dict[str, asyncio.Task[Answer]] = {}

    async def start(self) -> None:
        """Take up the stored records and start to reconcile. Raises `UnwritableError`."""
        self._book.open({HTTP, *(feed.name for feed in self._feeds)}, self._boot_id)
        runners = [self._loop.run(), *(feed.run() for feed in self._feeds)]
        self._tasks = [asyncio.create_task(runner) for runner in runners]

    async def close(self) -> None:
        """Stop reconciling and end all workers; records stay."""
        self._book.events.close()
        tasks = [*self._tasks, *self._jit_loads.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.downloads.close()
        await self._inspector.close()
        await self._loop.close()
        stopping = Problem(Cause.STOPPING, "the daemon is stopping", permanent=False)
        for entry in self._book.entries.values():
            entry.fail(stopping)
        # Before workers are waited for: a stop that is cut off there is none that a model caused.
        self._book.close()
        await self._engine.close()

    async def load(
        self, request: LoadRequest, tell: Callable[[str], None] = lambda _name: None
    ) -> Answer:
        """Bring about what `request` asks for and say what is so. Raises `LoadError`.

        `tell` hears which record serves it as soon as that is decided.
        """
        machine = await self._known_machine()
        warnings: tuple[SettingWarning, ...] = ()
        ref = request.ref
        wanted = checkpoint = await self._inspector.find(ref)
        while True:
            decision = decide(self._decision_views(), request, wanted, self._clock.utc())
            if isinstance(decision, Join) or decision.record.spec.ref == ref:
                break
            ref = decision.record.spec.ref  # it keeps the adapter of a record that it updates
            checkpoint = await self._inspector.find(ref)
        if isinstance(decision, Join):
            entry = self._book.entries[decision.name]
        else:
            warnings = decision.warnings
            self._loop.admit(decision.record, checkpoint, machine)
            entry = self._take_up(decision.record, checkpoint)
        tell(entry.record.name)
        answer = await self._settled(entry)
        return replace(answer, joined=isinstance(decision, Join), warnings=warnings)

    async def put(self, name: str, spec: LoadSpec, *, wait: bool = False) -> Answer:
        """Take up a wish as it stands, in place of the http record of that name.

        Answers at once, or with `wait` when it is loaded. Raises `LoadError`.
        """
        machine = await self._known_machine()
        if (why := unmet(spec.node_selector, self.labels)) is not None:
            raise LoadError(Problem(Cause.NOT_SELECTED, f"'{name}' is {why}", param="spec"))
        if spec.suspend:
            entry = self._book.put(self._put(self._book.records(), name, spec))
            return Answer(entry.record, entry.status)
        try:
            checkpoint = await self._inspector.find(spec.ref)
        except LoadError as error:
            missing = error.problem.cause is Cause.MODEL_NOT_FOUND
            if not (missing and spec.download == "if-missing"):
                raise
            entry = self._book.put(self._put(self._book.records(), name, spec))
        else:
            record = self._put(self._book.records(), name, spec)
            self._loop.admit(record, checkpoint, machine)
            entry = self._take_up(record, checkpoint)
        if wait:
            return await self._settled(entry)
        return Answer(entry.record, entry.status)

    def _put(self, records: Mapping[str, Record], name: str, spec: LoadSpec) -> Record:
        return put(records.get(name), name, spec, self._clock.utc())

    def _take_up(self, record: Record, checkpoint: Checkpoint) -> Entry:
        entry = self._book.put(record)
        self._book.found[record.spec.ref] = Found(checkpoint, self._clock.monotonic())
        return entry

    async def _settled(self, entry: Entry) -> Answer:
        """The answer, once the record is ready. Raises `LoadError` where it will not be."""
        self._book.wake_up(entry.record.name)  # where that cannot be written, nobody waits
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        entry.waiters.append(waiter)
        self._book.wake.set()
        return await waiter

    async def forecast(self, wishes: Wishes) -> Forecast:
        """What would be done if `wishes` were taken up; they are not. Raises `LoadError`."""
        machine = await self._known_machine()
        files = wishes.source.files if wishes.source is not None else ()
        specs = [spec for _, spec in wishes.apply] + [d.spec for f in files for d in f.declared]
        refs = [spec.ref for spec in specs if not spec.suspend]
        checkpoints = await self._inspector.find_all(refs)
        now = self._book.records()
        then, refused, not_selected = dict(now), {}, {}
        if wishes.source is not None:
            result = absorb(now, Memory(), wishes.source, 0.0, self._clock.utc(), self.labels)
            then = {n: r for n, r in now.items() if n not in result.removals}
            then |= {record.name: record for record in result.upserts}
            not_selected = dict(result.not_selected)
            for name, why in result.flagged.items():
                refused[name] = Problem(Cause.MANAGED_BY_MANIFEST, f"'{name}' is {why}")
        for name in wishes.delete:
            try:
                self._removable(name)
                del then[name]
            except LoadError as error:
                refused[name] = error.problem
        for name, spec in wishes.apply:
            try:
                then[name] = self._put(then, name, spec)
            except LoadError as error:
                refused[name] = error.problem
        changes = tuple(
            Change(name, _spec(now.get(name)), _spec(then.get(name)))
            for name in sorted(now.keys() | then.keys())
            if _spec(now.get(name)) != _spec(then.get(name))
        )
        actions = self._loop.foresee(then, checkpoints, machine)
        return Forecast(actions, tuple(self._loop.running.values()), changes, refused, not_selected)

    async def estimate(self, request: LoadRequest) -> Estimate:
        """What a load would need; nothing is loaded. Raises `LoadError`."""
        machine = await self._known_machine()
        checkpoint = await self._inspector.find(request.ref)
        resolved = resolve(request.config, checkpoint, machine)
        ledger = self._loop.held_memory(machine)
        free = ledger.budget - ledger.used
        short = ledger.missing(checkpoint.path, resolved.need.shared, resolved.need.own)
        return Estimate(checkpoint, resolved, short + free, free, ledger.budget)

    async def unload(self, name: str) -> None:
        """Remove an http record, and return when its instance is gone. Raises `LoadError`."""
        self._removable(name)
        unloaded = Problem(Cause.REMOVED, f"'{name}' was unloaded", permanent=False)
        self._book.remove(name, unloaded)
        await self.until(lambda: name in self._book.entries or self.is_gone(name))

    def clear(self, name: str) -> Answer:
        """Forget what is held against a record, so that it is tried at once. Raises `LoadError`."""
        entry = self._book.entries.get(name)
        if entry is None:
            raise LoadError(Problem(Cause.UNKNOWN_INSTANCE, f"there is no record '{name}'"))
        self._book.clear(entry)
        return Answer(entry.record, entry.status)

    def _removable(self, name: str) -> None:
        """Raises `LoadError` where there is no such record, or a manifest owns it."""
        entry = self._book.entries.get(name)
        if entry is None:
            message = f"no instance is named '{name}'"
            raise LoadError(Problem(Cause.UNKNOWN_INSTANCE, message, param="instance_id"))
        if entry.record.owner != HTTP:
            message = f"'{name}' is managed by {entry.record.place}; set `suspend: true` there"
            raise LoadError(Problem(Cause.MANAGED_BY_MANIFEST, message, param="instance_id"))

    def answer(self, name: str) -> Answer | None:
        """A record and its status now."""
        entry = self._book.entries.get(name)
        return Answer(entry.record, entry.status) if entry is not None else None

    def answers(self) -> tuple[Answer, ...]:
        """All records with their status, by name."""
        return tuple(Answer(e.record, e.status) for _, e in sorted(self._book.entries.items()))

    def is_gone(self, name: str) -> bool:
        """Whether no record, no instance and no action has that name."""
        held = any(i.name == name for i in self._engine.instances())
        return not (name in self._book.entries or name in self._loop.running or held)

    @property
    def sources(self) -> tuple[Feed, ...]:
        """Where manifests come from."""
        return tuple(self._feeds)

    def source(self, name: str) -> Feed:
        """The source of that name. Raises `LoadError`."""
        for feed in self._feeds:
            if feed.name == name:
                return feed
        words = f"there is no source '{name}'"
        raise LoadError(Problem(Cause.UNKNOWN_SOURCE, words, param="name"))

    async def ready_for(self, model: str, idle_ttl_seconds: int | None = None) -> str:
        """The instance that answers for `model`, once there is one.

        What is idle is loaded again for it. With `jit`, so is a model that nobody asked to load:
        as an http record that is unloaded when it is not used, after `idle_ttl_seconds` if they
        are given. Raises `LoadError`.
        """
        if self._jit and not self._book.candidates(model):
            loading = self._jit_loads.get(model)
            if loading is None:
                ttl = idle_ttl_seconds or JIT_IDLE_TTL_SECONDS
                request = LoadRequest(model, idle_ttl_seconds=ttl)
                loading = self._jit_loads[model] = asyncio.create_task(self.load(request))
                loading.add_done_callback(lambda _: self._jit_loads.pop(model))
            # Who asked may go away; whoever else asks has the same load to wait for.
            await asyncio.wait([loading])
            loading.result()
        name = self._route(model)
        if name is None:
            with self._book.asking(model):
                await self.until(lambda: self._route(model) is not None)
            name = self._route(model)
            assert name is not None  # noqa: S101  awaited above
        return name

    def can_answer(self, model: str) -> bool:
        """Whether a request for `model` would be answered, now or as soon as what is idle is
        loaded again.
        """
        return self._serving(model) is not None or any(e.idle for e in self._book.candidates(model))

    def _serving(self, model: str) -> str | None:
        """The loaded instance that answers for `model`: the one of that name, else the oldest that
        holds that model, whatever its record asks for by now.
        """
        actions = self._loop.running.values()
        leaving = {a.name for a in actions if a.kind is Kind.UNLOAD or a.unload_first}
        loaded = {i.name: i for i in self._engine.instances() if i.name not in leaving}
        if model in loaded:
            return model
        entries = self._book.entries
        ready = [
            entries[name].record
            for name, instance in loaded.items()
            if name in entries
            and instance.spec.adapter is None
            and instance.spec.model.lower() == model.lower()
        ]
        return min(ready, key=lambda r: (r.created_at, r.name)).name if ready else None

    def why_not_ready(self, model: str) -> str:
        """What the record that would answer for `model` says."""
        for entry in self._book.candidates(model):
            ready = entry.status.condition("Ready")
            if ready is not None:
                return ready.message
        return "no record asks for it"

    def _route(self, model: str) -> str | None:
        """The instance that answers for `model`. None: one is on its way.

        Raises `LoadError` `NotLoaded`.
        """
        if (name := self._serving(model)) is not None:
            return name
        candidates = self._book.candidates(model)
        for entry in candidates:
            self._book.wake_up(entry.record.name)
            progressing = entry.status.condition("Progressing")
            if progressing is not None and progressing.status == "True":
                return None
        message = (
            f"no instance of {model} is loaded; load it by "
            f'POST /api/v1/models/load {{"model": {json.dumps(model)}}}'
        )
        for entry in candidates:
            why = entry.status.condition("Ready")
            if why is not None:
                message = f"'{entry.record.name}' is not loaded: {why.message}"
        raise LoadError(Problem(Cause.NOT_LOADED, message, param="model"))

    @asynccontextmanager
    async def request(self, name: str, path: str, body: bytes) -> AsyncIterator[Reply]:
        """Have an instance answer a completion request. Raises `LoadError`."""
        entry = self._book.entries.get(name)
        if entry is None:
            message = f"'{name}' is not loaded now"
            raise LoadError(Problem(Cause.NOT_LOADED, message, permanent=False, param="model"))
        entry.requests += 1
        begin = time.perf_counter()
        try:
            async with (
                self._loop.leases.lease(name) as lease,
                self._engine.request(name, path, body, lease) as reply,
            ):
                self.metrics.answered(name, reply.status)
                if reply.content_type == "text/event-stream":
                    chunks = self.metrics.timed(name, begin, reply.chunks)
                    reply = replace(reply, chunks=chunks)  # noqa: PLW2901
                yield reply
        finally:
            entry.requests -= 1
            entry.used_at = self._clock.monotonic()
            if entry.record.spec.idle_ttl_seconds is not None or self._evicts:
                self._book.wake.set()

    def complaints(self, record: Record) -> tuple[Complaint, ...]:
        """Why a record is not as a source says."""
        views = (feed.view for feed in self._feeds)
        return tuple(c for view in views if view is not None for c in view.complaints(record))

    def history(self, name: str | None) -> list[Generation]:
        """The kept generations of a record, or of all, the newest first."""
        return self._book.store.history(name)

    def log(self, name: str, *, follow: bool) -> AsyncIterator[LogLine] | None:
        """What the latest worker process of an instance wrote, and with `follow` what it will.

        None: it had none since the daemon started.
        """
        log = self._engine.log(name)
        return log.follow(wait=follow) if log is not None else None

    @property
    def events(self) -> Events:
        """What happens."""
        return self._book.events

    async def models(self) -> tuple[Listed, ...]:
        """The models on disk."""
        return await self._inspector.listed()

    def instances(self) -> tuple[Instance, ...]:
        """What is loaded."""
        return self._engine.instances()

    async def tokens(self) -> Mapping[str, Usage]:
        """What instances computed since the daemon started, by name; asked of their workers."""
        return await self._engine.tokens()

    def memory(self) -> Ledger | None:
        """Who holds what; None until MLX was asked."""
        machine = self.machine
        return self._loop.held_memory(machine) if machine is not None else None

    @property
    def machine(self) -> Machine | None:
        """The facts of the machine; None until MLX was asked."""
        machine = self._loop.machine
        return machine if isinstance(machine, Machine) else None

    @property
    def problem(self) -> Problem | None:
        """Why nothing can be loaded at all, if so."""
        machine = self._loop.machine
        return machine if isinstance(machine, Problem) else self._book.store.problem

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at after every change."""
        await self._book.until(condition)

    def _downloaded(self, job: Job) -> None:
        """Have a model looked for anew."""
        for ref in [ref for ref in self._book.found if ref.base == job.ref]:
            del self._book.found[ref]
        self._book.wake.set()

    def _worker_died(self, instance: Instance, problem: Problem) -> None:
        self._loop.worker_died(instance, problem)

    async def _known_machine(self) -> Machine:
        """The facts of the machine. Raises `LoadError` while no worker can be started."""
        await self.until(lambda: self._loop.machine is not None)
        machine = self._loop.machine
        if isinstance(machine, Problem):
            raise LoadError(machine)
        assert machine is not None  # noqa: S101  awaited above
        return machine

    def _decision_views(self) -> list[View]:
        loaded = {i.name: i.config for i in self._engine.instances()}
        return [
            View(
                entry.record,
                self._book.checkpoint(entry.record.spec.ref),
                loaded.get(name),
                entry.status.ready,
            )
            for name, entry in self._book.entries.items()
        ]


def _spec(record: Record | None) -> LoadSpec | None:
    return record.spec if record is not None else None
