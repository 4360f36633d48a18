"""plan(records, instances, facts, machine, now) -> actions, each with its reason in words.

Level-triggered: it looks at what is, not at what happened, so it can be called at any time and
any number of times. It decides; the controller acts. It never plans beyond the memory that it
was given, and says nothing about a record that already agrees with its instance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from reconciler.core.backoff import Retry
from reconciler.core.errors import Cause, LoadError, Problem
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.memory import Ledger, readable_bytes
from reconciler.core.records import HTTP, Instance, Record
from reconciler.core.settings import Resolved, resolve


class Kind(StrEnum):
    """What to do about one record."""

    LOAD = "Load"
    ATTACH = "Attach"
    RECONFIGURE = "Reconfigure"
    RELOAD = "Reload"
    UNLOAD = "Unload"
    WAIT = "Wait"
    HOLD = "Hold"


class Why(StrEnum):
    """The machine-readable reason of a wait, or of a hold without a problem."""

    QUEUED = "Queued"
    WAITING_FOR_MEMORY = "WaitingForMemory"
    BACKING_OFF = "BackingOff"
    READING_CHECKPOINT = "ReadingCheckpoint"
    SUSPENDED = "Suspended"


@dataclass(frozen=True)
class Action:
    """One step for one record. A record gets at most one action at a time."""

    kind: Kind
    name: str
    reason: str
    checkpoint: Checkpoint | None = None
    resolved: Resolved | None = None
    unload_first: bool = False
    """For Reload and Reconfigure: old and new do not fit in memory together."""
    why: Why | None = None
    """For Wait, and for a Hold that is wished for."""
    until: float | None = None
    """For Wait: when to look again, if time alone can end it; monotonic seconds."""
    problem: Problem | None = None
    """For Hold; and for a Wait that a failure caused."""

    @property
    def acts(self) -> bool:
        """Whether the engine has anything to do."""
        return self.kind not in (Kind.WAIT, Kind.HOLD)

    @property
    def reads_weights(self) -> bool:
        """Whether it reads a checkpoint; such actions are serial, for there is one GPU."""
        return self.kind in (Kind.LOAD, Kind.RELOAD)


@dataclass(frozen=True)
class Facts:
    """What is known besides records and instances, by record name."""

    checkpoints: Mapping[str, Checkpoint | Problem] = field(default_factory=dict)
    """Missing: not read yet."""
    retries: Mapping[str, Retry] = field(default_factory=dict)
    running: Mapping[str, Action] = field(default_factory=dict)
    """Actions under way. They hold their memory and their record."""


def plan(
    records: Sequence[Record],
    instances: Sequence[Instance],
    facts: Facts,
    machine: Machine,
    now: float,
) -> tuple[Action, ...]:
    """The next action for each record or instance that needs one.

    Unloads come first; then manifests' records before ad-hoc ones, the oldest first.
    """
    planner = _Planner(instances, facts, machine, now)
    wanted = {r.name for r in records}
    idle = [i.name for i in instances if i.name not in facts.running]
    actions = [planner.unload(name) for name in idle if name not in wanted]
    for record in sorted(records, key=load_order):
        if record.name not in facts.running:
            action = planner.next_action(record)
            if action is not None:
                actions.append(action)
    return tuple(actions)


def load_order(record: Record) -> tuple[bool, float, str]:
    """Manifests' records before ad-hoc ones, the oldest first."""
    return (record.owner == HTTP, record.created_at.timestamp(), record.name)


class _Planner:
    """One pass: what is left of memory and of the right to read weights as actions are dealt."""

    def __init__(
        self, instances: Iterable[Instance], facts: Facts, machine: Machine, now: float
    ) -> None:
        self.instances = {i.name: i for i in instances}
        self.facts = facts
        self.machine = machine
        self.now = now
        self.ledger = Ledger.of(machine.memory_budget, self.instances.values())
        self.reading: str | None = None
        self.leaving: set[str] = set()
        for action in facts.running.values():
            self._deal(action)

    def _deal(self, action: Action) -> None:
        """Count a dealt action: its memory is held beside what its record holds already."""
        if action.reads_weights:
            self.reading = action.name
        if action.kind in (Kind.UNLOAD, Kind.RELOAD):
            self.leaving.add(action.name)
        if action.checkpoint is None or action.resolved is None:
            return
        if action.unload_first:
            self.ledger.release(action.name)
        incoming = f"{action.name} (incoming)"
        size = action.resolved.session_bytes
        self.ledger.hold(incoming, action.checkpoint.path, action.checkpoint.weights_bytes, size)

    def next_action(self, record: Record) -> Action | None:
        checkpoint = self.facts.checkpoints.get(record.name)
        instance = self.instances.get(record.name)
        if record.spec.suspend:
            return self._suspended(record, instance)
        if instance is not None and instance.spec == record.spec:
            return None
        if checkpoint is None:
            return self._wait(record, Why.READING_CHECKPOINT, "its checkpoint is being read")
        if isinstance(checkpoint, Problem):
            return _hold(record, checkpoint)
        retry = self._retry(record, checkpoint)
        if retry is not None:
            return retry
        try:
            resolved = resolve(record.spec.config, checkpoint, self.machine)
        except LoadError as error:
            return _hold(record, error.problem)
        action = self._towards(record, instance, checkpoint, resolved)
        if action.acts:
            self._deal(action)
        return action

    def unload(self, name: str, reason: str = "no record wants it") -> Action:
        action = Action(Kind.UNLOAD, name, reason)
        self._deal(action)
        return action

    def _suspended(self, record: Record, instance: Instance | None) -> Action:
        reason = f"suspended by {record.place}"
        if instance is not None:
            return self.unload(record.name, reason)
        return Action(Kind.HOLD, record.name, reason, why=Why.SUSPENDED)

    def _retry(self, record: Record, checkpoint: Checkpoint) -> Action | None:
        """What an earlier failure of this generation demands, if anything."""
        retry = self.facts.retries.get(record.name)
        if retry is None or retry.generation != record.generation:
            return None
        if retry.problem.permanent:
            same_files = retry.revision == checkpoint.revision
            return _hold(record, retry.problem) if same_files else None
        if retry.not_before > self.now:
            words = f"attempt {retry.failures} failed: {retry.problem.message}"
            return self._wait(
                record, Why.BACKING_OFF, words, until=retry.not_before, problem=retry.problem
            )
        return None

    def _towards(
        self, record: Record, instance: Instance | None, checkpoint: Checkpoint, resolved: Resolved
    ) -> Action:
        """The action that brings the record's instance about, memory permitting."""
        if instance is not None and instance.checkpoint == checkpoint.path:
            kind, reason = Kind.RECONFIGURE, _changes(instance, record)
        elif instance is not None:
            kind = Kind.RELOAD
            reason = f"the model changes from {instance.spec.model} to {record.spec.model}"
        elif self._is_loaded(checkpoint):
            kind, reason = Kind.ATTACH, "its weights are in memory already"
        else:
            kind, reason = Kind.LOAD, "it is not loaded"
        if kind is not Kind.RECONFIGURE and self._is_in_transit(checkpoint):
            words = "another instance's action on the same weights is under way"
            return self._wait(record, Why.QUEUED, words)
        if kind in (Kind.LOAD, Kind.RELOAD) and self.reading is not None:
            return self._wait(record, Why.QUEUED, f"{self.reading} is being loaded first")
        need = (checkpoint.path, checkpoint.weights_bytes, resolved.session_bytes)
        short = self.ledger.missing(*need)
        fits_alone = instance is not None and self.ledger.without(record.name).missing(*need) <= 0
        if short > 0 and not fits_alone:
            return self._wait_for_memory(record.name, short)
        unload_first = short > 0
        return Action(kind, record.name, reason, checkpoint, resolved, unload_first=unload_first)

    def _wait_for_memory(self, name: str, short: int) -> Action:
        holders = ", ".join(f"{n} {readable_bytes(b)}" for n, b in self.ledger.holders().items())
        missing, budget = readable_bytes(short), readable_bytes(self.ledger.budget)
        words = (
            f"{missing} short of the {budget} that models may take; in use: {holders or 'nothing'}"
        )
        problem = Problem(Cause.INSUFFICIENT_MEMORY, words, permanent=False)
        return Action(Kind.WAIT, name, words, why=Why.WAITING_FOR_MEMORY, problem=problem)

    def _is_loaded(self, checkpoint: Checkpoint) -> bool:
        """Whether an instance holds these weights and is not about to let go of them."""
        return any(
            i.checkpoint == checkpoint.path and i.name not in self.leaving
            for i in self.instances.values()
        )

    def _is_in_transit(self, checkpoint: Checkpoint) -> bool:
        """Whether these weights are on their way in, or on their way out of memory."""
        coming = any(
            a.reads_weights and a.checkpoint is not None and a.checkpoint.path == checkpoint.path
            for a in self.facts.running.values()
        )
        going = any(
            i.checkpoint == checkpoint.path and i.name in self.leaving
            for i in self.instances.values()
        )
        return coming or (going and not self._is_loaded(checkpoint))

    def _wait(
        self,
        record: Record,
        why: Why,
        words: str,
        *,
        until: float | None = None,
        problem: Problem | None = None,
    ) -> Action:
        return Action(Kind.WAIT, record.name, words, why=why, until=until, problem=problem)


def _hold(record: Record, problem: Problem) -> Action:
    return Action(Kind.HOLD, record.name, problem.message, problem=problem)


def _changes(instance: Instance, record: Record) -> str:
    """The settings that change, in words."""
    old, new = instance.spec.config.sent(), record.spec.config.sent()
    keys = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if not keys:
        return f"the model is now named {record.spec.model}"
    told = (f"{k} from {old.get(k, 'default')} to {new.get(k, 'default')}" for k in keys)
    return "changed: " + ", ".join(told)
