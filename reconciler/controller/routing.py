"""Chooses the instance that serves a request, and loads one if necessary.

A request names an instance, one of its aliases or a model. An idle instance is reloaded for it;
with just-in-time loading, a model without a record is loaded as well.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from enum import StrEnum

from reconciler.controller.actions import Engine
from reconciler.controller.reconciler import Reconciler
from reconciler.controller.registry import Registry
from reconciler.controller.state import RecordState, RecordView
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.plan import Kind
from reconciler.core.records import LoadRequest

JIT_IDLE_TTL_SECONDS = 3600
"""Idle TTL of a record created by a request for a model; LM Studio's default."""


class Availability(StrEnum):
    """State in which a request for a model finds it."""

    LOADED = "loaded"
    LOADING = "loading"
    """Loading, or waiting for its turn or for memory; the request waits."""
    IDLE = "idle"
    """Unloaded because it was not used; the request reloads it."""
    NOT_LOADED = "not-loaded"
    """Without a record; with just-in-time loading, the request loads it."""


Load = Callable[[LoadRequest], Coroutine[None, None, RecordView]]


class Router:
    """Routes requests to instances. Used on the event loop only."""

    def __init__(
        self, registry: Registry, reconciler: Reconciler, engine: Engine, load: Load, *, jit: bool
    ) -> None:
        """`jit`: True if a request for a model without a record calls `load`."""
        self._registry = registry
        self._reconciler = reconciler
        self._engine = engine
        self._load = load
        self.jit = jit
        self._jit_loads: dict[str, asyncio.Task[RecordView]] = {}

    async def close(self) -> None:
        """Cancel all just-in-time loads."""
        loads = list(self._jit_loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def until_ready(self, model: str, idle_ttl_seconds: int | None = None) -> None:
        """Wait until an instance serves `model`.

        A record created by a request is unloaded after `idle_ttl_seconds` without use, if given.
        Raises `LoadError`.
        """
        if self.jit and not self._registry.candidates(model):
            loading = self._jit_loads.get(model)
            if loading is None:
                ttl = idle_ttl_seconds or JIT_IDLE_TTL_SECONDS
                request = LoadRequest(model, idle_ttl_seconds=ttl)
                loading = self._jit_loads[model] = asyncio.create_task(self._load(request))
                loading.add_done_callback(lambda _: self._jit_loads.pop(model))
            # A caller may be cancelled; others wait for the same load.
            await asyncio.wait([loading])
            loading.result()
        if self._route(model) is None:
            with self._registry.asking(model):
                await self._registry.until(lambda: self._route(model) is not None)

    def can_answer(self, model: str) -> bool:
        """True if a request for `model` can be served, now or after an idle instance reloads."""
        if self.serving(model) is not None:
            return True
        return any(state.idle for state in self._registry.candidates(model))

    def availability(self, model: str) -> Availability | None:
        """State in which a request for `model` finds it; None if its record cannot be loaded or is
        suspended. Does not check that a model without a record exists.
        """
        if self.serving(model) is not None:
            return Availability.LOADED
        candidates = self._registry.candidates(model)
        if any(state.idle for state in candidates):
            return Availability.IDLE
        if any(_is_on_its_way(state) for state in candidates):
            return Availability.LOADING
        return Availability.NOT_LOADED if self.jit and not candidates else None

    def why_not_ready(self, model: str) -> str:
        """Explain why the record that would serve `model` is not ready."""
        for state in self._registry.candidates(model):
            ready = state.status.condition("Ready")
            if ready is not None:
                return ready.message
        return "no record declares it"

    def serving(self, model: str) -> str | None:
        """Return the loaded instance that serves `model`.

        It is the one of that name or alias, else the oldest with that model, even if its record
        has changed.
        """
        actions = self._reconciler.running.values()
        leaving = {a.name for a in actions if a.kind is Kind.UNLOAD or a.unload_first}
        loaded = {i.name: i for i in self._engine.instances() if i.name not in leaving}
        if model in loaded:
            return model
        states = self._registry.states
        if model not in states and (owner := self._registry.named(model)) is not None:
            return owner if owner in loaded else None
        ready = [
            states[name].record
            for name, instance in loaded.items()
            if name in states
            and instance.spec.adapter is None
            and instance.spec.model.lower() == model.lower()
        ]
        return min(ready, key=lambda r: (r.created_at, r.name)).name if ready else None

    def _route(self, model: str) -> str | None:
        """Return the instance that serves `model`; None while one is loading.

        Raises `LoadError` `NotLoaded`.
        """
        if (name := self.serving(model)) is not None:
            return name
        candidates = self._registry.candidates(model)
        for state in candidates:
            self._registry.wake_up(state.record.name)
            if _is_on_its_way(state):
                return None
        message = (
            f"no instance of {model} is loaded; load it with "
            f'POST /api/v1/models/load {{"model": {json.dumps(model)}}}'
        )
        for state in candidates:
            why = state.status.condition("Ready")
            if why is not None:
                message = f"'{state.record.name}' is not loaded: {why.message}"
        raise LoadError(Problem(Reason.NOT_LOADED, message, param="model"))


def _is_on_its_way(state: RecordState) -> bool:
    progressing = state.status.condition("Progressing")
    return progressing is not None and progressing.status == "True"
