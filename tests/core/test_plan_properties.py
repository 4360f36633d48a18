"""Properties of `plan` in any state, tested with an ideal engine."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.backoff import Retry
from reconciler.core.defaults import Defaults
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.facts import Adapter, Checkpoint, Machine
from reconciler.core.memory import Ledger
from reconciler.core.plan import Action, Facts, Kind, plan
from reconciler.core.records import HTTP, Instance, LoadSpec, Record, RequestedSettings
from reconciler.core.settings import resolve

BUDGET = 100
MACHINE = Machine("cpu", "small", BUDGET, "0")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("a", "b", "c", "d")
MODELS = ("x", "y", "z")
PASSES = 60
"""More passes than any state here needs; a plan that cycles needs more."""

quickly = settings(max_examples=120, derandomize=True, deadline=None)


def checkpoint(model: str, weights: int) -> Checkpoint:
    return Checkpoint(f"/{model}", "r", "llama", weights, max_context=50, kv_bytes_per_token=1)


@dataclass
class World:
    """Records, loaded instances, and an engine that executes actions at once or in parts."""

    records: dict[str, Record]
    checkpoints: dict[str, Checkpoint]
    instances: dict[str, Instance] = field(default_factory=dict)
    running: dict[str, Action] = field(default_factory=dict)

    def plan(self) -> tuple[Action, ...]:
        found = {r.spec.ref: self.found(r.spec) for r in self.records.values()}
        facts = Facts(checkpoints=found, running=dict(self.running))
        records, instances = list(self.records.values()), list(self.instances.values())
        return plan(records, instances, facts, MACHINE, now=0.0)

    def found(self, spec: LoadSpec) -> Checkpoint:
        """The checkpoint of a spec, with its adapter."""
        adapter = Adapter(f"/{spec.adapter}", "f", 3) if spec.adapter is not None else None
        return replace(self.checkpoints[spec.model], adapter=adapter)

    def begin(self, action: Action) -> None:
        """Start an action; a load holds its memory from now on."""
        assert action.name not in self.running
        if action.kind is Kind.ATTACH:
            assert self.stays(action), "attached to weights that are about to go"
        if action.kind is Kind.LOAD:
            assert not self.holds(action), "a second copy of the weights"
        self.running[action.name] = action
        if action.unload_first:
            del self.instances[action.name]

    def holds(self, action: Action) -> list[str]:
        """Instances over the weights that an action wants."""
        assert action.checkpoint is not None
        path = action.checkpoint.path
        return [n for n, i in self.instances.items() if i.checkpoint == path]

    def stays(self, action: Action) -> bool:
        """True if those weights stay in memory; a replacement of an instance keeps them, too."""
        assert action.checkpoint is not None
        going = {n for n, a in self.running.items() if a.kind in (Kind.UNLOAD, Kind.RELOAD)}
        replaced = {
            a.checkpoint.path
            for a in self.running.values()
            if a.kind is Kind.RECONFIGURE and a.checkpoint is not None
        }
        kept = any(name not in going for name in self.holds(action))
        return kept or action.checkpoint.path in replaced

    def finish(self, name: str) -> None:
        """End an action as planned."""
        action = self.running.pop(name)
        if action.kind is Kind.UNLOAD:
            del self.instances[name]
            return
        assert action.checkpoint is not None
        assert action.resolved is not None
        self.instances[name] = Instance(
            name,
            self.records[name].spec,
            action.checkpoint.path,
            action.resolved.config,
            action.checkpoint.weights_bytes,
            action.resolved.need.own,
        )

    def used(self) -> int:
        """Memory in use, with old and new side by side while an action runs."""
        ledger = Ledger.of(BUDGET, self.instances.values())
        for action in self.running.values():
            if action.checkpoint is not None and action.resolved is not None:
                size = action.resolved.need.own
                path, weights = action.checkpoint.path, action.checkpoint.weights_bytes
                ledger.hold(f"{action.name}+", path, weights, size)
        return ledger.used

    def readers(self) -> int:
        return sum(action.reads_weights for action in self.running.values())


def any_spec(chance: Random) -> LoadSpec:
    context = chance.choice((None, None, 1, 50, chance.randint(1, 50), chance.randint(1, 50)))
    defaults = chance.choice((Defaults(), Defaults(temperature=0.0), Defaults(system_prompt="a")))
    adapter = chance.choice((None, "tuned"))
    return LoadSpec(
        chance.choice(MODELS), RequestedSettings(context_length=context), defaults, adapter
    )


def any_specs(chance: Random) -> dict[str, LoadSpec]:
    names = chance.sample(NAMES, chance.randint(0, len(NAMES)))
    return {name: any_spec(chance) for name in names}


def any_world(seed: int) -> World:
    """Any specs, and any loaded state that the budget allows, wanted or not."""
    chance = Random(seed)
    checkpoints = {m: checkpoint(m, chance.randint(10, 80)) for m in MODELS}
    records = {
        name: Record(
            name,
            chance.choice((HTTP, "directory:/m")),
            spec,
            EPOCH + timedelta(seconds=chance.randint(0, 3)),
        )
        for name, spec in any_specs(chance).items()
    }
    world = World(records, checkpoints)
    for name, spec in any_specs(chance).items():
        found = world.found(spec)
        try:
            resolved = resolve(spec.config, found, MACHINE)
        except LoadError:
            continue
        instance = Instance(
            name, spec, found.path, resolved.config, found.weights_bytes, resolved.need.own
        )
        if Ledger.of(BUDGET, [*world.instances.values(), instance]).used <= BUDGET:
            world.instances[name] = instance
    return world


SEEDS = st.integers(0, 2**32)
"""Worlds are derived from one number: drawing their parts by hypothesis takes ten times as long."""

worlds = SEEDS.map(any_world)


def settled(world: World, actions: Iterable[Action]) -> None:
    """Check that each record is met or waits for a reason, and that nothing unwanted is left."""
    waiting = {a.name: a for a in actions}
    assert set(world.instances) <= set(world.records)
    for name, record in world.records.items():
        instance = world.instances.get(name)
        if instance is not None and instance.spec == record.spec:
            assert name not in waiting
        else:
            action = waiting[name]
            assert action.kind is Kind.HOLD or action.reason is Reason.WAITING_FOR_MEMORY
            assert action.problem is not None
            assert action.problem.reason in (Reason.INSUFFICIENT_MEMORY, Reason.IMPOSSIBLE_SETTING)


@quickly
@given(worlds)
def test_an_ideal_engine_converges_from_any_state(world: World) -> None:
    for _ in range(PASSES):
        actions = world.plan()
        acting = [a for a in actions if a.acts]
        if not acting:
            settled(world, actions)
            return
        for action in acting:
            world.begin(action)
        assert world.used() <= BUDGET
        for action in acting:
            world.finish(action.name)
        assert world.used() <= BUDGET
    raise AssertionError(f"not settled after {PASSES} passes")


@quickly
@given(worlds, SEEDS)
def test_an_ideal_engine_converges_whatever_action_ends_first(world: World, seed: int) -> None:
    chance = Random(seed)
    for _ in range(PASSES):
        actions = world.plan()
        for action in actions:
            if action.acts:
                world.begin(action)
        assert world.used() <= BUDGET
        assert world.readers() <= 1
        if not world.running:
            settled(world, actions)
            return
        world.finish(chance.choice(sorted(world.running)))
        assert world.used() <= BUDGET
    raise AssertionError(f"not settled after {PASSES} passes")


@quickly
@given(worlds)
def test_a_matching_record_gets_no_action(world: World) -> None:
    for name, record in list(world.records.items()):
        if name in world.instances:
            world.records[name] = replace(record, spec=world.instances[name].spec)
    touched = {a.name for a in world.plan()}
    assert touched.isdisjoint(set(world.records) & set(world.instances))


@quickly
@given(worlds)
def test_a_record_gets_at_most_one_action_and_one_reads_weights(world: World) -> None:
    actions = world.plan()
    names = [a.name for a in actions]
    assert sorted(set(names)) == sorted(names)
    assert sum(a.reads_weights for a in actions) <= 1


@quickly
@given(worlds)
def test_a_plan_depends_only_on_its_arguments(world: World) -> None:
    assert world.plan() == world.plan()


@quickly
@given(worlds)
def test_every_action_has_a_reason(world: World) -> None:
    assert all(action.message for action in world.plan())


def test_a_problem_of_the_files_holds_and_keeps_the_instance() -> None:
    spec = LoadSpec("x")
    record = Record("a", HTTP, LoadSpec("y"), EPOCH)
    found = checkpoint("x", 10)
    config = resolve(spec.config, found, MACHINE).config
    instance = Instance("a", spec, found.path, config, 10, 50)
    problem = Problem(Reason.MODEL_NOT_FOUND, "no y")
    (action,) = plan([record], [instance], Facts({record.spec.ref: problem}), MACHINE, 0.0)
    assert (action.kind, action.problem) == (Kind.HOLD, problem)


def test_a_failed_adapter_is_retried_when_its_files_change() -> None:
    spec = LoadSpec("x", adapter="tuned")
    record = Record("a", HTTP, spec, EPOCH)
    before = replace(checkpoint("x", 10), adapter=Adapter("/tuned", "f", 3))
    after = replace(before, adapter=Adapter("/tuned", "g", 3))
    problem = Problem(Reason.LOAD_FAILED, "it does not fit")
    retries = {"a": Retry(1, before.files, problem, 1, 0.0)}
    for found, kind in ((before, Kind.HOLD), (after, Kind.LOAD)):
        facts = Facts({spec.ref: found}, retries)
        (action,) = plan([record], [], facts, MACHINE, 0.0)
        assert action.kind is kind


def test_a_change_of_defaults_is_a_reconfigure_whose_reason_contains_no_prompt() -> None:
    found = checkpoint("x", 10)
    before = LoadSpec("x", defaults=Defaults(system_prompt="secret", top_k=3))
    after = LoadSpec("x", defaults=Defaults(system_prompt="hidden", top_k=4))
    record = Record("a", HTTP, after, EPOCH)
    config = resolve(before.config, found, MACHINE).config
    instance = Instance("a", before, found.path, config, 10, 50)
    (action,) = plan([record], [instance], Facts({after.ref: found}), MACHINE, 0.0)
    assert action.kind is Kind.RECONFIGURE
    assert action.message == "changed: defaults.system_prompt, defaults.top_k from 3 to 4"
