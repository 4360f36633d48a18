"""Changes of desired state requested by callers: load, put, unload, clear.

A change is decided from all records and applied in one step of the event loop, so the decision is
never based on stale state. Concurrent changes take turns, and other requests are served between
two turns. If another program locks the database, the change is decided again once it is unlocked.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from reconciler.controller.actions import Engine
from reconciler.controller.clock import sleep
from reconciler.controller.lookups import Lookups
from reconciler.controller.reconciler import Reconciler
from reconciler.controller.registry import Registry
from reconciler.controller.state import RecordState, RecordView
from reconciler.core.desired import Join, Put, View, decide, put, removable
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Checkpoint
from reconciler.core.near import hint
from reconciler.core.parts import missing_part
from reconciler.core.records import LoadRequest, LoadSpec, ModelRef, Record
from reconciler.core.selector import unmet
from reconciler.store import UnwritableError

T = TypeVar("T")

LOCKED_SECONDS = 5.0
"""Time that a caller waits for another program to unlock the database."""

LOCK_POLL_SECONDS = 0.05

PASSES_BETWEEN_TURNS = 6
"""Event-loop iterations between turns: as many as a short HTTP request takes."""


def unknown_record(name: str, names: Iterable[str]) -> Problem:
    """Build the problem of an unknown record, with similar names."""
    return Problem(Reason.UNKNOWN_INSTANCE, f"there is no record '{name}'{hint(name, names)}")


def _spelled(request: LoadRequest, checkpoint: Checkpoint) -> LoadRequest:
    """Return the request with the model's identifier in the letter case of its directory."""
    if checkpoint.key.lower() != request.model.lower():
        return request
    return replace(request, model=checkpoint.key)


class Mutations:
    """Applies changes requested by callers. Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        reconciler: Reconciler,
        engine: Engine,
        labels: Mapping[str, str],
    ) -> None:
        """`labels` are this node's, matched by node selectors."""
        self._registry = registry
        self._clock = registry.clock
        self._lookups = lookups
        self._reconciler = reconciler
        self._engine = engine
        self._labels = labels
        self._turns = asyncio.Lock()

    async def load(
        self, request: LoadRequest, on_name: Callable[[str], None] = lambda _name: None
    ) -> RecordView:
        """Satisfy a load request and return the resulting record. Raises `LoadError`.

        `on_name` is called with the record's name as soon as it is decided.
        """
        machine = await self._reconciler.known_machine()
        wanted = checkpoint = await self._lookups.find(request.ref)
        moves = self._lookups.moves
        request = _spelled(request, checkpoint)
        ref = request.ref

        def take_up() -> tuple[RecordState, Join | Put] | ModelRef:
            """Return the record that serves the request, or a model that must be found first."""
            decision = decide(self._decision_views(), request, wanted, self._clock.utc())
            if isinstance(decision, Join):
                state = self._registry.states[decision.name]
            elif decision.record.spec.ref != ref:
                return decision.record.spec.ref
            elif self._lookups.moves != moves:  # the files may be gone
                return ref
            else:
                self._reconciler.planning.admit(decision.record, checkpoint, machine)
                state = self._take_up(decision.record, checkpoint)
            self._registry.wake_up(state.record.name)  # if that cannot be written, nothing waits
            return state, decision

        while isinstance(taken := await self.when_unlocked(take_up), ModelRef):
            ref = taken  # an updated record keeps its adapter
            checkpoint = await self._lookups.find(ref)
            moves = self._lookups.moves
        state, decision = taken
        on_name(state.record.name)
        view = await self._settled(state)
        if isinstance(decision, Join):
            return replace(view, joined=True)
        return replace(view, warnings=decision.warnings)

    async def put(self, name: str, spec: LoadSpec, *, wait: bool = False) -> RecordView:
        """Store a spec as given, replacing the http record of that name.

        Returns immediately, or with `wait` once it is loaded. Raises `LoadError`.
        """
        machine = await self._reconciler.known_machine()
        if (why := unmet(spec.node_selector, self._labels)) is not None:
            raise LoadError(Problem(Reason.NOT_SELECTED, f"'{name}' is {why}", param="spec"))
        checkpoint = await self._found(spec)
        moves = self._lookups.moves

        def take_up() -> RecordState | None:
            if checkpoint is not None and self._lookups.moves != moves:
                return None  # the files may be gone
            record = put(self._registry.records.get(name), name, spec, self._clock.utc())
            if checkpoint is None:
                state = self._registry.put(record)
            else:
                self._reconciler.planning.admit(record, checkpoint, machine)
                state = self._take_up(record, checkpoint)
            if wait and not spec.suspend:
                self._registry.wake_up(name)
            return state

        while (state := await self.when_unlocked(take_up)) is None:
            checkpoint = await self._found(spec)
            moves = self._lookups.moves
        if wait and not spec.suspend:
            return await self._settled(state)
        return state.view

    async def _found(self, spec: LoadSpec) -> Checkpoint | None:
        """Find the checkpoint of a spec; None if it is not needed yet. Raises `LoadError`."""
        if spec.suspend:
            return None
        try:
            return await self._lookups.find(spec.ref)
        except LoadError as error:
            missing = missing_part(error.problem)
            if missing is None or spec.download != "if-missing":
                raise
        return None

    def _take_up(self, record: Record, checkpoint: Checkpoint) -> RecordState:
        state = self._registry.put(record)
        self._lookups.note(record.spec.ref, checkpoint)
        return state

    async def _settled(self, state: RecordState) -> RecordView:
        """Wait until the record is ready. Raises `LoadError` if it cannot become ready."""
        waiter = state.wait()
        self._registry.activate(state.record.name)
        return await waiter

    async def _turn(self, decide: Callable[[], T]) -> T:
        """Call `decide`, which reads all records and takes milliseconds if there are many.

        Concurrent callers take turns, and other requests are served between two turns.
        """
        crowded = self._turns.locked()
        await self._turns.acquire()
        try:
            for _ in range(PASSES_BETWEEN_TURNS if crowded else 0):
                await asyncio.sleep(0)
            return decide()
        finally:  # released later, so that callers in the same iteration find it locked
            asyncio.get_running_loop().call_soon(self._turns.release)

    async def when_unlocked(self, change: Callable[[], T]) -> T:
        """Apply a change of desired state once no other program locks the database.

        Each attempt calls `change` again, which must read the current state. Raises `LoadError`.
        """
        deadline = self._clock.monotonic() + LOCKED_SECONDS
        while True:
            try:
                return await self._turn(change)
            except UnwritableError as error:
                if not error.locked or self._clock.monotonic() >= deadline:
                    raise
            await sleep(self._clock, LOCK_POLL_SECONDS)

    async def unload(self, name: str) -> None:
        """Remove an http record; returns when its instance is unloaded. Raises `LoadError`."""

        def remove() -> None:
            removable(self._registry.records, name)
            unloaded = Problem(Reason.REMOVED, f"'{name}' was unloaded", permanent=False)
            self._registry.remove(name, unloaded)

        await self.when_unlocked(remove)
        await self._registry.until(
            lambda: name in self._registry.states or self._reconciler.is_gone(name)
        )

    def clear(self, name: str) -> RecordView:
        """Clear a record's failures and crashes and retry it immediately. Raises `LoadError`."""
        state = self._registry.states.get(name)
        if state is None:
            raise LoadError(unknown_record(name, self._registry.states))
        self._registry.clear(state)
        self._lookups.forget(state.record.spec.ref.base)
        return state.view

    def _decision_views(self) -> list[View]:
        loaded = {i.name: i.config for i in self._engine.instances()}
        return [
            View(
                state.record,
                self._lookups.checkpoint(state.record.spec.ref),
                loaded.get(name),
                state.status.ready,
            )
            for name, state in self._registry.states.items()
        ]
