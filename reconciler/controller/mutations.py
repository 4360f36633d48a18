"""Changes of desired state that callers ask for: loads, puts, unloads, clears.

A change looks at all records and takes effect in one step of the event loop, so nothing that it was
decided from is old by then. Callers that come at once take turns, and others get their answers
between two of them. Where another program locks the database, the change is decided again once it
is unlocked.
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
from reconciler.core.records import LoadRequest, LoadSpec, ModelRef, Record
from reconciler.core.selector import unmet
from reconciler.store import UnwritableError

T = TypeVar("T")

LOCKED_SECONDS = 5.0
"""That a caller waits for another program to unlock the database."""

LOCK_POLL_SECONDS = 0.05

PASSES_BETWEEN_TURNS = 6
"""Of the event loop: as many as a short HTTP request takes from its connection to its answer."""


def unknown_record(name: str, names: Iterable[str]) -> Problem:
    """That there is no record `name`, with names that resemble it."""
    return Problem(Reason.UNKNOWN_INSTANCE, f"there is no record '{name}'{hint(name, names)}")


def _spelled(request: LoadRequest, checkpoint: Checkpoint) -> LoadRequest:
    """The request with the model's identifier in the letter case of its directory."""
    if checkpoint.key.lower() != request.model.lower():
        return request
    return replace(request, model=checkpoint.key)


class Mutations:
    """Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        reconciler: Reconciler,
        engine: Engine,
        labels: Mapping[str, str],
    ) -> None:
        """By `labels` specs pick this node."""
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
        """Bring about what `request` asks for and say what is so. Raises `LoadError`.

        `on_name` hears which record serves it as soon as that is decided.
        """
        machine = await self._reconciler.known_machine()
        wanted = checkpoint = await self._lookups.find(request.ref)
        request = _spelled(request, checkpoint)
        ref = request.ref

        def take_up() -> tuple[RecordState, Join | Put] | ModelRef:
            """The record that serves it; or the model to look for first."""
            decision = decide(self._decision_views(), request, wanted, self._clock.utc())
            if isinstance(decision, Join):
                state = self._registry.states[decision.name]
            elif decision.record.spec.ref != ref:
                return decision.record.spec.ref
            else:
                self._reconciler.planning.admit(decision.record, checkpoint, machine)
                state = self._take_up(decision.record, checkpoint)
            self._registry.wake_up(state.record.name)  # where that cannot be written, nobody waits
            return state, decision

        while isinstance(taken := await self.when_unlocked(take_up), ModelRef):
            ref = taken  # it keeps the adapter of a record that it updates
            checkpoint = await self._lookups.find(ref)
        state, decision = taken
        on_name(state.record.name)
        view = await self._settled(state)
        if isinstance(decision, Join):
            return replace(view, joined=True)
        return replace(view, warnings=decision.warnings)

    async def put(self, name: str, spec: LoadSpec, *, wait: bool = False) -> RecordView:
        """Take up a spec as it stands, in place of the http record of that name.

        Answers at once, or with `wait` when it is loaded. Raises `LoadError`.
        """
        machine = await self._reconciler.known_machine()
        if (why := unmet(spec.node_selector, self._labels)) is not None:
            raise LoadError(Problem(Reason.NOT_SELECTED, f"'{name}' is {why}", param="spec"))
        checkpoint: Checkpoint | None = None
        if not spec.suspend:
            try:
                checkpoint = await self._lookups.find(spec.ref)
            except LoadError as error:
                missing = error.problem.reason is Reason.MODEL_NOT_FOUND
                if not (missing and spec.download == "if-missing"):
                    raise

        def take_up() -> RecordState:
            record = put(self._registry.records.get(name), name, spec, self._clock.utc())
            if checkpoint is None:
                state = self._registry.put(record)
            else:
                self._reconciler.planning.admit(record, checkpoint, machine)
                state = self._take_up(record, checkpoint)
            if wait and not spec.suspend:
                self._registry.wake_up(name)
            return state

        state = await self.when_unlocked(take_up)
        if wait and not spec.suspend:
            return await self._settled(state)
        return state.view

    def _take_up(self, record: Record, checkpoint: Checkpoint) -> RecordState:
        state = self._registry.put(record)
        self._lookups.note(record.spec.ref, checkpoint)
        return state

    async def _settled(self, state: RecordState) -> RecordView:
        """The view, once the record is ready. Raises `LoadError` where it will not be."""
        waiter = state.wait()
        self._registry.activate(state.record.name)
        return await waiter

    async def _turn(self, decide: Callable[[], T]) -> T:
        """What `decide` returns, which looks at all records: that takes milliseconds of many.

        Callers that come at once take turns, and between two of them others get their answers.
        """
        crowded = self._turns.locked()
        await self._turns.acquire()
        try:
            for _ in range(PASSES_BETWEEN_TURNS if crowded else 0):
                await asyncio.sleep(0)
            return decide()
        finally:  # not at once: who comes in the same pass of the loop finds it taken
            asyncio.get_running_loop().call_soon(self._turns.release)

    async def when_unlocked(self, change: Callable[[], T]) -> T:
        """Make a change of desired state, as soon as no other program locks the database.

        `change` looks at everything anew each time. Raises `LoadError`.
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
        """Remove an http record, and return when its instance is gone. Raises `LoadError`."""

        def remove() -> None:
            removable(self._registry.records, name)
            unloaded = Problem(Reason.REMOVED, f"'{name}' was unloaded", permanent=False)
            self._registry.remove(name, unloaded)

        await self.when_unlocked(remove)
        await self._registry.until(
            lambda: name in self._registry.states or self._reconciler.is_gone(name)
        )

    def clear(self, name: str) -> RecordView:
        """Forget what is held against a record, so that it is tried at once. Raises `LoadError`."""
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
