"""Assertions of the design's guarantees on the state of a world."""

from typing import TYPE_CHECKING

from reconciler.controller import RecordView
from reconciler.core.errors import LoadError
from reconciler.core.facts import Machine
from reconciler.core.memory import Ledger
from reconciler.core.records import HTTP, LoadSpec, Record
from reconciler.core.settings import resolve
from reconciler.store import KEPT_GENERATIONS
from tests.controller.faulty import BUDGET

if TYPE_CHECKING:
    from tests.controller.machine import World


def check(world: "World") -> None:
    """Assert the guarantees that hold after any step."""
    assert not world.violations, world.violations
    answers = {a.record.name: a for a in world.controller.answers()}
    assert world.engine.used() <= BUDGET
    assert world.engine.used() + world.engine.leased() <= BUDGET, "memory is leased twice"
    _check_desired(world, {name: a.record for name, a in answers.items()})
    for answer in answers.values():
        _check_status(world, answer)
        _check_history(world, answer)
    _check_callers(world, answers)


def _check_desired(world: "World", records: dict[str, Record]) -> None:
    """Assert that the desired state is what its owners declare."""
    for record in records.values():
        key = (record.name, record.created_at)
        before = world.generations.get(key, record)
        assert record.generation >= before.generation
        if record.generation == before.generation:
            assert record.spec == before.spec, "the spec changed without a new generation"
        world.generations[key] = record
        assert not (record.provisional and record.owner != HTTP)
    declared = _declared(world)
    for name, specs in declared.items():
        if len(specs) == 1 and not world.unreadable and world.writable:
            assert records[name].owner == world.source.name
            assert records[name].spec == specs[0]
    world.acknowledged -= {r.name for r in records.values() if r.owner != HTTP}
    assert world.acknowledged <= records.keys(), "an acknowledged record is gone"


def _declared(world: "World") -> dict[str, list[LoadSpec]]:
    declared: dict[str, list[LoadSpec]] = {}
    for documents in world.files.values():
        for name, spec in documents or ():
            declared.setdefault(name, []).append(spec)
    return declared


def _check_status(world: "World", answer: RecordView) -> None:
    """Assert that the reported status is the actual state."""
    record, status = answer.record, answer.status
    instance = world.engine.loaded.get(record.name)
    states = {c.type: c.status == "True" for c in status.conditions}
    assert states["Ready"] + states["Progressing"] + states["Stalled"] <= 1
    assert status.config == (instance.config if instance is not None else None)
    if states["Ready"]:
        assert instance is not None
        assert instance.spec.loads_like(record.spec)
        assert status.observed_generation == record.generation
        # The last good spec is persisted as soon as possible.
        assert record.last_good is not None or not world.writable
        assert not record.provisional or not world.writable
    undone = states["Stalled"] and not _held(answer) and world.writable
    if undone and record.owner == HTTP and record.last_good is not None:
        assert record.last_good.loads_like(record.spec), "a failed update was not undone"
    busy = record.name in world.controller._reconciler.running
    if not (states["Ready"] or states["Stalled"] or _rests(answer)):
        assert states["Progressing"]
    if instance is not None and instance.spec.loads_like(record.spec) and not busy:
        assert states["Ready"] or _rests(answer)
    if _rests(answer) and not record.spec.suspend:
        assert record.spec.idle_ttl_seconds is not None
        assert instance is None or busy


def _check_history(world: "World", answer: RecordView) -> None:
    kept = list(world.store.history(answer.record.name))
    assert len(kept) <= KEPT_GENERATIONS
    newest = kept[0]
    assert (newest.generation, newest.spec) == (answer.record.generation, answer.record.spec)
    assert newest.ended_at is None
    if answer.status.ready and world.writable:
        assert newest.outcome == "Loaded"


def _check_callers(world: "World", answers: dict[str, RecordView]) -> None:
    """Assert that no caller waits for a record without an action in progress."""
    for name, entry in world.controller._registry.states.items():
        if entry.awaited:
            progressing = answers[name].status.condition("Progressing")
            assert progressing is not None
            assert progressing.status == "True", f"a caller waits for {name} in vain"


def _check_restored(world: "World", record: Record) -> None:
    """Assert that if a spec cannot be loaded, the last good spec serves if possible."""
    good = record.last_good
    if record.name in world.engine.loaded or good is None:
        return
    same = (record.name, record.created_at, record.generation)
    try:
        found = world.catalog.find(good.ref)
        resolved = resolve(good.config, found, Machine("cpu", "fake", BUDGET, "0"))
    except LoadError:
        return
    if any(
        (r.name, r.created_at, r.generation) == same
        and spec.loads_like(good)
        and fingerprint == found.fingerprint
        for r, spec, fingerprint in world.given_up
    ):
        return
    ledger = Ledger.of(BUDGET, world.engine.loaded.values())
    short = ledger.missing(found.path, found.weights_bytes, resolved.need.own)
    assert short > 0, f"{record.name} could be served as it was"


def check_settled(world: "World") -> None:
    """Assert that all records are loaded that can be, unless lookups of their models fail."""
    for answer in world.controller.answers():
        if _rests(answer) or _held(answer) or world.is_sick(answer.record):
            continue
        _check_restored(world, answer.record)
        ready = answer.status.condition("Ready")
        stalled = answer.status.condition("Stalled")
        assert ready is not None
        assert stalled is not None
        assert (
            ready.status == "True"
            or stalled.status == "True"
            or "WaitingForMemory" in {c.reason for c in answer.status.conditions}
        ), answer


def _held(answer: RecordView) -> bool:
    """True if the record is held because of crashes."""
    stalled = answer.status.condition("Stalled")
    if stalled is None or stalled.reason != "SuspectedHostCrash":
        return False
    return stalled.status == "True"


def _rests(answer: RecordView) -> bool:
    """True if the record is intentionally not loaded."""
    ready = answer.status.condition("Ready")
    return answer.record.spec.suspend or (ready is not None and ready.reason == "Idle")
