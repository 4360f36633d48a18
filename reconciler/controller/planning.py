"""The plan that a pass carries out, and that admission and dry runs are asked for.

All of them ask the same function about the same facts, so nothing is admitted that the next pass
would refuse.
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
    """Changes nothing. Used on the event loop only."""

    def __init__(
        self,
        registry: Registry,
        lookups: Lookups,
        engine: Engine,
        running: Callable[[], Mapping[str, Action]],
        *,
        evicts: bool,
    ) -> None:
        """`running` returns the actions under way; `evicts`: True if idle instances go for records
        of a higher rank.
        """
        self._registry = registry
        self._lookups = lookups
        self._engine = engine
        self._running = running
        self._evicts = evicts

    def next_actions(self, machine: Machine) -> tuple[Action, ...]:
        """What is to be done now."""
        records = [state.record for state in self._registry.active_states()]
        now = self._registry.clock.monotonic()
        return plan(records, self._engine.instances(), self.facts(), machine, now)

    def admit(self, record: Record, checkpoint: Checkpoint, machine: Machine) -> None:
        """Refuse at once what the next pass would not load. Raises `LoadError`."""
        records = {s.record.name: s.record for s in self._registry.active_states()}
        records[record.name] = record
        preview = self.preview(records, machine)
        for action in preview(records, {record.spec.ref: checkpoint}):
            if action.name == record.name and action.problem is not None:
                raise LoadError(action.problem)

    def preview(self, names: Iterable[str], machine: Machine) -> "Preview":
        """What answers what the next pass would do if there were other records.

        `names` are those of records that it may be asked about.
        """
        states, records = self._registry.states, self._registry.records
        known = {name: records[name] for name in names if name in records}
        idle = frozenset(name for name in known if states[name].idle)
        facts, instances = self.facts(), self._engine.instances()
        return Preview(known, idle, facts, instances, machine, self._registry.clock.monotonic())

    def held_memory(self, machine: Machine) -> Ledger:
        """Who holds what now."""
        return held_memory(self._engine.instances(), self.facts(), machine)

    def facts(self) -> Facts:
        """What is known besides records and instances."""
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
    """The plan, from the facts of one moment. May be asked on any thread."""

    known: Mapping[str, Record]
    idle: frozenset[str]
    facts: Facts
    instances: tuple[Instance, ...]
    machine: Machine
    now: float

    def __call__(
        self, records: Mapping[str, Record], checkpoints: Mapping[ModelRef, Checkpoint | Problem]
    ) -> tuple[Action, ...]:
        """What the next pass would do if these were the records."""
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
