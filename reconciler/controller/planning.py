"""The plan, shared by passes, admission and dry runs.

All of them call the same function on the same facts, so an admitted load is never refused by the
next pass.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from reconciler.controller.actions import Engine
from reconciler.controller.lookups import Lookups
from reconciler.controller.registry import Registry
from reconciler.core import suspicion
from reconciler.core.errors import LoadError, Problem
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.memory import Ledger
from reconciler.core.plan import Action, Facts, held_memory, plan
from reconciler.core.records import Instance, ModelRef, Record


class Planning:
    """Builds plans and changes nothing. Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        engine: Engine,
        running: Callable[[], Mapping[str, Action]],
        *,
        evicts: bool,
    ) -> None:
        """`running` returns the running actions. `evicts`: True if records of a higher rank may
        evict idle instances.
        """
        self._registry = registry
        self._lookups = lookups
        self._engine = engine
        self._running = running
        self._evicts = evicts

    def next_actions(self, machine: Machine) -> tuple[Action, ...]:
        """Plan the actions of a pass."""
        records = [state.record for state in self._registry.active_states()]
        now = self._registry.clock.monotonic()
        return plan(records, self._engine.instances(), self.facts(), machine, now)

    def admit(self, record: Record, checkpoint: Checkpoint, machine: Machine) -> None:
        """Reject a record that the next pass would not load. Raises `LoadError`."""
        records = {s.record.name: s.record for s in self._registry.active_states()}
        records[record.name] = record
        preview = self.preview(records, machine)
        for action in preview(records, {record.spec.ref: checkpoint}):
            if action.name == record.name and action.problem is not None:
                raise LoadError(action.problem)

    def preview(self, names: Iterable[str], machine: Machine) -> "Preview":
        """Return a preview of the next pass for hypothetical records.

        `names` are the records whose current version the preview may be compared with.
        """
        states, records = self._registry.states, self._registry.records
        known = {name: records[name] for name in names if name in records}
        idle = frozenset(name for name in known if states[name].idle)
        facts, instances = self.facts(), self._engine.instances()
        return Preview(known, idle, facts, instances, machine, self._registry.clock.monotonic())

    def held_memory(self, machine: Machine) -> Ledger:
        """Memory in use, by holder."""
        return held_memory(self._engine.instances(), self.facts(), machine)

    def facts(self) -> Facts:
        """Inputs of the plan other than records and instances."""
        states = {s.record.name: s for s in self._registry.active_states()}
        crashes = {n: suspicion.problem(s.record, s.crashes) for n, s in states.items()}
        return Facts(
            checkpoints=self._lookups.found(),
            retries={name: s.retry for name, s in states.items() if s.retry is not None},
            restores={name: s.restore for name, s in states.items() if s.restore is not None},
            running=self._running(),
            idle=frozenset(name for name, s in states.items() if s.idle),
            busy=self._registry.busy(),
            used_at={name: s.used_at for name, s in states.items()},
            live=self._engine.live_memory(),
            outgoing=self._engine.outgoing(),
            evicts=self._evicts,
            suspected={name: problem for name, problem in crashes.items() if problem is not None},
        )


@dataclass(frozen=True)
class Preview:
    """The plan on a snapshot of the facts. Thread-safe."""

    known: Mapping[str, Record]
    idle: frozenset[str]
    facts: Facts
    instances: tuple[Instance, ...]
    machine: Machine
    now: float

    def __call__(
        self, records: Mapping[str, Record], checkpoints: Mapping[ModelRef, Checkpoint | Problem]
    ) -> tuple[Action, ...]:
        """Plan the actions of the next pass for these records."""
        changed = {
            name
            for name, record in records.items()
            if (known := self.known.get(name)) is not record and known != record
        }
        facts = replace(
            self.facts,
            checkpoints={**self.facts.checkpoints, **checkpoints},
            idle=self.idle & records.keys() - changed,
            suspected={n: p for n, p in self.facts.suspected.items() if n not in changed},
        )
        return plan(list(records.values()), self.instances, facts, self.machine, self.now)
