"""plan(records, instances, facts, machine, now) -> actions, each with its reason and message.

Level-triggered: it depends on the current state, not on events, so it can be called at any time
and any number of times. It decides; the controller acts. It never plans beyond the memory budget,
and returns no action for a record that already agrees with its instance.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reconciler.core.backoff import Retry
from reconciler.core.changes import changes, model_name
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.eviction import rank, victims
from reconciler.core.facts import Checkpoint, Machine
from reconciler.core.memory import Ledger, readable_bytes
from reconciler.core.records import Instance, LoadSpec, ModelRef, Record
from reconciler.core.settings import Resolved, resolve


class Kind(StrEnum):
    """Kind of action for one record."""

    LOAD = "Load"
    ATTACH = "Attach"
    RECONFIGURE = "Reconfigure"
    RELOAD = "Reload"
    UNLOAD = "Unload"
    WAIT = "Wait"
    HOLD = "Hold"


@dataclass(frozen=True)
class Action:
    """One step for one record. A record gets at most one action at a time."""

    kind: Kind
    name: str
    message: str
    spec: LoadSpec | None = None
    """The spec to load; not the record's if a failed update is rolled back."""
    checkpoint: Checkpoint | None = None
    resolved: Resolved | None = None
    unload_first: bool = False
    """True if a Reload or Reconfigure unloads the old instance before loading the new one."""
    reason: Reason | None = None
    """Reason of a Wait, or of a Hold without a problem."""
    until: float | None = None
    """Set for a Wait that time alone can end: when to plan again; monotonic seconds."""
    problem: Problem | None = None
    """Cause of a Hold, or of a Wait after a failure."""

    @property
    def acts(self) -> bool:
        """True if the engine has to act."""
        return self.kind not in (Kind.WAIT, Kind.HOLD)

    @property
    def reads_weights(self) -> bool:
        """True if it reads a checkpoint. Such actions are serial, because there is one GPU."""
        return self.kind in (Kind.LOAD, Kind.RELOAD)


@dataclass(frozen=True)
class Facts:
    """Facts besides records and instances, by record name unless noted."""

    checkpoints: Mapping[ModelRef, Checkpoint | Problem] = field(default_factory=dict)
    """Checkpoints by model; a missing key is not read yet."""
    retries: Mapping[str, Retry] = field(default_factory=dict)
    restores: Mapping[str, Retry] = field(default_factory=dict)
    """Failed attempts to reload the last good spec."""
    running: Mapping[str, Action] = field(default_factory=dict)
    """Actions under way. They hold their memory and their record."""
    idle: frozenset[str] = frozenset()
    """Records without a request for as long as their spec allows."""
    busy: frozenset[str] = frozenset()
    """Records with in-flight or waiting requests."""
    used_at: Mapping[str, float] = field(default_factory=dict)
    """Time of the last request; monotonic seconds."""
    live: Mapping[str, int] = field(default_factory=dict)
    """Measured memory of the worker of each checkpoint, in bytes by path."""
    outgoing: Sequence[Instance] = ()
    """Replaced instances that are draining."""
    evicts: bool = False
    """True if idle instances are evicted for records of higher rank."""
    suspected: Mapping[str, Problem] = field(default_factory=dict)
    """Records that must not be loaded because of earlier crashes."""


def plan(
    records: Sequence[Record],
    instances: Sequence[Instance],
    facts: Facts,
    machine: Machine,
    now: float,
) -> tuple[Action, ...]:
    """The next action for each record or instance that needs one.

    Unloads come first; then the records in `load_order`.
    """
    planner = _Planner(instances, facts, machine, now, records)
    wanted = {r.name for r in records}
    free = [i.name for i in instances if i.name not in facts.running]
    unloads = [planner.unload(name) for name in free if name not in wanted]
    actions = []
    for record in sorted(records, key=load_order):
        if record.name not in facts.running and record.name not in planner.evicted:
            try:
                action = planner.next_action(record)
            except Exception as error:  # noqa: BLE001  one record must not stop all others
                problem = Problem.of_error(error)
                action = put_off(record.name, problem, now + UNPLANNED_SECONDS)
            if action is not None:
                actions.append(action)
    return (*unloads, *planner.evicted.values(), *actions)


UNPLANNED_SECONDS = 30.0
"""Delay before a record is planned again after an unexpected error in its planning."""


def held_memory(instances: Iterable[Instance], facts: Facts, machine: Machine) -> Ledger:
    """Memory held by instances and by actions under way."""
    return _Planner(instances, facts, machine, 0.0).ledger


def load_order(record: Record) -> tuple[object, ...]:
    """Sort key: records of manifests before ad-hoc ones, then by priority, then the oldest."""
    age = record.created_at.timestamp()
    return (*rank(record), age, record.name)


class _Planner:
    """One pass: tracks the memory left, and the one action that reads weights."""

    def __init__(
        self,
        instances: Iterable[Instance],
        facts: Facts,
        machine: Machine,
        now: float,
        records: Sequence[Record] = (),
    ) -> None:
        self.records = records
        self.instances = {i.name: i for i in instances}
        self.facts = facts
        self.machine = machine
        self.now = now
        self.ledger = Ledger.of(machine.memory_budget, self.instances.values(), facts.live)
        self.reading: str | None = None
        self.leaving: set[str] = set()
        self.evicted: dict[str, Action] = {}
        self.freed: set[str] = set()
        """Names in the ledger whose memory is released without a further action."""
        for gone in facts.outgoing:
            name = f"{gone.name} (outgoing)"
            self.freed.add(name)
            self.ledger.hold(name, gone.checkpoint, gone.shared_bytes, gone.session_bytes)
        for action in facts.running.values():
            self._deal(action)

    def _deal(self, action: Action) -> None:
        """Account for an action: its memory is held in addition to what its record holds."""
        if self._is_in_place(action):  # it only waits for the replaced instance to drain
            return
        if action.reads_weights:
            self.reading = action.name
        if action.kind in (Kind.UNLOAD, Kind.RELOAD):
            self.leaving.add(action.name)
        if action.checkpoint is None or action.resolved is None:
            return
        if action.unload_first:
            self.ledger.release(action.name)
        incoming, need = f"{action.name} (incoming)", action.resolved.need
        self.ledger.hold(incoming, action.checkpoint.path, need.shared, need.own)

    def _is_in_place(self, action: Action) -> bool:
        """True if the instance that an action loads is already loaded."""
        instance = self.instances.get(action.name)
        if instance is None or action.checkpoint is None:
            return False
        return (instance.spec, instance.checkpoint) == (action.spec, action.checkpoint.path)

    def next_action(self, record: Record) -> Action | None:
        instance = self.instances.get(record.name)
        resting = rest(record, idle=record.name in self.facts.idle)
        if resting is not None:  # the record stays, its instance is unloaded
            return resting if instance is None else self.unload(record.name, resting.message)
        if instance is not None and instance.spec.loads_like(record.spec):
            return None
        if instance is None and record.name in self.facts.suspected:
            return _hold(record, self.facts.suspected[record.name])
        action = self._attempt(record, record.spec, instance, self.facts.retries)
        if instance is None and action.problem is not None:
            action = self._restored(record, action)
        if action.acts:
            self._deal(action)
        return action

    def _attempt(
        self,
        record: Record,
        spec: LoadSpec,
        instance: Instance | None,
        retries: Mapping[str, Retry],
    ) -> Action:
        """The next step towards `spec`."""
        checkpoint = self.facts.checkpoints.get(spec.ref)
        if checkpoint is None:
            return self._wait(record, Reason.READING_CHECKPOINT, "its checkpoint is being read")
        if isinstance(checkpoint, Problem) and checkpoint.reason is Reason.DOWNLOADING:
            return self._wait(record, Reason.DOWNLOADING, checkpoint.message)
        if isinstance(checkpoint, Problem):
            return _hold(record, checkpoint)
        retry = self._retry(record, checkpoint, retries.get(record.name))
        if retry is not None:
            return retry
        try:
            resolved = resolve(spec.config, checkpoint, self.machine)
        except LoadError as error:
            return _hold(record, error.problem)
        return self._towards(record, spec, instance, checkpoint, resolved)

    def _restored(self, record: Record, failed: Action) -> Action:
        """Reload the last good spec if the wanted one cannot be loaded and nothing is loaded."""
        good = record.last_good
        if good is None or good.loads_like(record.spec):
            return failed
        action = self._attempt(record, good, None, self.facts.restores)
        if action.acts:
            message = f"reloading the last good settings: {failed.message}"
            return replace(action, message=message)
        ends = [a.until for a in (failed, action) if a.until is not None]
        return replace(failed, until=min(ends, default=None))

    def unload(self, name: str, message: str = "no record wants it") -> Action:
        action = Action(Kind.UNLOAD, name, message)
        self._deal(action)
        return action

    def _retry(self, record: Record, checkpoint: Checkpoint, retry: Retry | None) -> Action | None:
        """The Wait or Hold that an earlier failure of this generation requires, if any."""
        if retry is None or retry.generation != record.generation:
            return None
        if retry.problem.permanent:
            same_files = retry.fingerprint == checkpoint.files
            return _hold(record, retry.problem) if same_files else None
        if retry.not_before > self.now:
            words = f"attempt {retry.failures} failed: {retry.problem.message}"
            return self._wait(
                record, Reason.BACKING_OFF, words, until=retry.not_before, problem=retry.problem
            )
        return None

    def _towards(
        self,
        record: Record,
        spec: LoadSpec,
        instance: Instance | None,
        checkpoint: Checkpoint,
        resolved: Resolved,
    ) -> Action:
        """The action that creates or changes the record's instance, if memory permits."""
        if instance is not None and instance.checkpoint == checkpoint.path:
            kind, message = Kind.RECONFIGURE, changes(instance.spec, spec)
        elif instance is not None:
            kind = Kind.RELOAD
            message = f"the model changes from {model_name(instance.spec)} to {model_name(spec)}"
        elif self._is_loaded(checkpoint):
            kind, message = Kind.ATTACH, "its weights are in memory already"
        else:
            kind, message = Kind.LOAD, "it is not loaded"
        if kind is not Kind.RECONFIGURE and self._is_in_transit(checkpoint):
            words = "another instance's action on the same weights is under way"
            return self._wait(record, Reason.QUEUED, words)
        if kind in (Kind.LOAD, Kind.RELOAD) and self.reading is not None:
            return self._wait(record, Reason.QUEUED, f"{self.reading} is being loaded first")
        need = (checkpoint.path, resolved.need.shared, resolved.need.own)
        short = self.ledger.missing(*need)
        strategy = spec.update_strategy
        short_alone = self.ledger.without(record.name).missing(*need)
        replaceable = instance is not None and strategy != "load-first" and short_alone <= 0
        if short > 0 and not replaceable:
            own = (record.name,) if instance is not None and strategy != "load-first" else ()
            waiting = self._wait_for_room(record, need, own)
            return waiting or self._short_of_memory(record.name, short)
        unload_first = instance is not None and (short > 0 or strategy == "unload-first")
        return Action(
            kind, record.name, message, spec, checkpoint, resolved, unload_first=unload_first
        )

    def _wait_for_room(
        self, record: Record, need: tuple[str, int, int], own: tuple[str, ...]
    ) -> Action | None:
        """Wait for instances being unloaded, or evict some; None if that does not make enough room.

        `own` names the record's instance if that is unloaded as well.
        """
        leaving = tuple(sorted(self.freed | self.leaving - {record.name}))
        ledger = self.ledger.without(*own, *leaving)
        if ledger.missing(*need) > 0:
            retry = self.facts.retries.get(record.name)
            failed = retry is not None and retry.generation == record.generation
            if not self.facts.evicts or failed:  # the failed attempt has already evicted instances
                return None
            chosen = victims(record, self._idle_records(), self.facts.used_at, ledger, need)
            if not chosen:
                return None
            for name in chosen:
                words = f"idle, and {record.name} of higher priority needs the memory"
                self.evicted[name] = self.unload(name, words)
            leaving = chosen
        self.ledger.hold(f"{record.name} (waiting)", *need)  # no later record may take it
        words = f"waiting for the memory of {', '.join(leaving)}, which is being unloaded"
        return self._wait(record, Reason.WAITING_FOR_MEMORY, words)

    def _idle_records(self) -> list[Record]:
        """Records whose instance is idle and has no action under way."""
        taken = self.facts.busy | self.facts.running.keys() | self.leaving
        return [r for r in self.records if r.name in self.instances and r.name not in taken]

    def _short_of_memory(self, name: str, short: int) -> Action:
        holders = ", ".join(f"{n} {readable_bytes(b)}" for n, b in self.ledger.holders().items())
        missing, budget = readable_bytes(short), readable_bytes(self.ledger.budget)
        words = f"{missing} short of the memory budget of {budget}; in use: {holders or 'nothing'}"
        problem = Problem(Reason.INSUFFICIENT_MEMORY, words, permanent=False)
        return Action(Kind.WAIT, name, words, reason=Reason.WAITING_FOR_MEMORY, problem=problem)

    def _is_loaded(self, checkpoint: Checkpoint) -> bool:
        """True if an instance holds these weights and is not being unloaded."""
        return any(
            i.checkpoint == checkpoint.path and i.name not in self.leaving
            for i in self.instances.values()
        )

    def _is_in_transit(self, checkpoint: Checkpoint) -> bool:
        """True if these weights are being loaded or unloaded."""
        loaded = self._is_loaded(checkpoint)
        coming = any(
            a.checkpoint is not None
            and a.checkpoint.path == checkpoint.path
            and not self._is_in_place(a)
            # Replacing their only instance keeps the weights, but no instance lists them meanwhile.
            and (a.reads_weights or not loaded)
            for a in self.facts.running.values()
        )
        going = any(
            i.checkpoint == checkpoint.path and i.name in self.leaving
            for i in self.instances.values()
        )
        return coming or (going and not loaded)

    def _wait(
        self,
        record: Record,
        reason: Reason,
        words: str,
        *,
        until: float | None = None,
        problem: Problem | None = None,
    ) -> Action:
        return Action(Kind.WAIT, record.name, words, reason=reason, until=until, problem=problem)


def put_off(name: str, problem: Problem, until: float) -> Action:
    """Wait until `until` before planning the record again, because of a problem."""
    return Action(Kind.WAIT, name, problem.message, until=until, problem=problem)


def rest(record: Record, *, idle: bool) -> Action | None:
    """The Hold of a record that is suspended or idle, so that nothing is loaded, or None."""
    if record.spec.suspend:
        words = f"suspended by {record.place}"
        return Action(Kind.HOLD, record.name, words, reason=Reason.SUSPENDED)
    if idle:
        words = f"no request for {record.spec.idle_ttl_seconds} s; the next request reloads it"
        return Action(Kind.HOLD, record.name, words, reason=Reason.IDLE)
    return None


def _hold(record: Record, problem: Problem) -> Action:
    return Action(Kind.HOLD, record.name, problem.message, problem=problem)
