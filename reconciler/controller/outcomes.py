"""Applies ended actions to the state of their records, and cancels loads that are not wanted.

A pass first collects the actions that ended since the last one: a success, a failure with its
back-off, or a cancellation, which counts against nothing.
"""

from collections.abc import Mapping

import structlog

from reconciler.controller.actions import Actions, Ended
from reconciler.controller.attempts import AttemptLog
from reconciler.controller.metrics import Metrics
from reconciler.controller.registry import Registry
from reconciler.controller.state import RecordState
from reconciler.core import backoff
from reconciler.core.errors import Problem
from reconciler.core.records import Instance, LoadSpec, Record

log = structlog.get_logger()


class Outcomes:
    """Applies outcomes. Used by passes only."""

    def __init__(
        self, registry: Registry, actions: Actions, attempts: AttemptLog, metrics: Metrics
    ) -> None:
        self._registry = registry
        self._clock = registry.clock
        self._actions = actions
        self._attempts = attempts
        self._metrics = metrics

    def take_up(self, at: float) -> None:
        """Apply the outcomes of actions that ended since the last pass."""
        for end in self._actions.collect():
            try:
                self._take_end(end, at)
            except Exception:
                log.exception("could not apply the end of an action", name=end.action.name)
            self._registry.announce()

    def _take_end(self, end: Ended, at: float) -> None:
        self._attempts.end(end.attempt, end.outcome)
        self._metrics.action_ended(end.action.kind.value, failed=end.problem is not None)
        if end.instance is not None and end.instance.report is not None:
            self._metrics.loaded(end.action.kind.value, end.instance.report)
        state = self._registry.states.get(end.action.name)
        if state is not None and end.record is not None:
            self._registry.active.add(end.action.name)
            self._settle(state, end, end.record, at)

    def _settle(self, state: RecordState, end: Ended, record: Record, at: float) -> None:
        """Record the outcome of an action in the state of its record."""
        spec = end.action.spec
        if spec is None:
            if end.problem is None:
                state.unloaded(record)
        elif end.problem is not None:
            checkpoint = end.action.checkpoint
            files = checkpoint.files if checkpoint is not None else None
            if state.record.created_at == record.created_at:
                self.fail(state, record, spec, files, end.problem)
        elif not end.cancelled:
            state.succeed(end.action, record, end.queued, self._clock.utc(), at)

    def fail(
        self,
        state: RecordState,
        record: Record,
        spec: LoadSpec,
        files: str | None,
        problem: Problem,
    ) -> None:
        """Count a failure of the wanted spec, or of the last good spec in its place."""
        before, now = state.last_failure(record, spec), self._clock.monotonic()
        chance = self._clock.chance()
        retry = backoff.after(before, record.generation, files, problem, now, chance)
        state.fail(record, spec, retry)

    def cancel_unwanted(self, instances: Mapping[str, Instance]) -> None:
        """Cancel loads whose record was removed or suspended, unless only draining is left."""
        for name, action in self._actions.running().items():
            if action.spec is None or action.checkpoint is None:
                continue
            state, instance = self._registry.states.get(name), instances.get(name)
            wanted = state is not None and not state.record.spec.suspend
            in_place = instance is not None and (instance.spec, instance.checkpoint) == (
                action.spec,
                action.checkpoint.path,
            )
            if not wanted and not in_place:
                self._actions.cancel(name)
