"""The host-crash guard: crashes count against loaded and loading records. Fake engine."""

import asyncio
from dataclasses import replace

import pytest

from reconciler.core.errors import LoadError, Reason
from reconciler.core.records import HTTP
from reconciler.core.suspicion import FORGIVEN_SECONDS
from tests.controller.fakes import Bench, load, request, spec, spin

HELD = "SuspectedHostCrash"


async def declare(bench: Bench, *names: str, **config: int) -> None:
    """Declare records of one model each, as a source does at each start."""
    models = ("tiny/llama", "tiny/qwen3")
    bench.source.declare(*((n, spec(m, **config)) for n, m in zip(names, models, strict=False)))
    entries = bench.controller._registry.states
    await bench.controller.until(lambda: set(names) <= entries.keys())


async def crash_while_loading(bench: Bench) -> None:
    await bench.engine.loads.get()
    await bench.crash()


async def crash_while_loaded(bench: Bench, name: str) -> None:
    await bench.engine.let_load()
    await bench.ready(name)
    await bench.crash(reboot=True)


async def test_two_loads_interrupted_by_crashes_hold_the_record_and_others_load(
    bench: Bench,
) -> None:
    await declare(bench, "a", "b")
    await crash_while_loading(bench)
    await crash_while_loading(bench)
    message = await bench.reason("a", HELD)
    assert "the daemon crashed twice while loading it" in message
    assert "`reconciler clear a`" in message
    assert (await bench.engine.let_load()).model == "tiny/qwen3"
    await bench.ready("b")
    answer = bench.controller.answer("a")
    assert answer is not None
    states = {c.type: c.status for c in answer.status.conditions}
    assert states == {"Ready": "False", "Progressing": "False", "Stalled": "True"}
    bench.controller.clear("a")
    assert (await bench.engine.let_load()).model == "tiny/llama"
    await bench.ready("a")


async def test_a_held_record_stays_held_after_clean_restarts_until_it_is_cleared(
    bench: Bench,
) -> None:
    await declare(bench, "a")
    await crash_while_loading(bench)
    await crash_while_loading(bench)
    await bench.reason("a", HELD)
    await bench.restart()
    await bench.reason("a", HELD)
    bench.controller.clear("a")
    await bench.engine.let_load()
    await bench.ready("a")
    assert bench.store.suspicions() == {}


async def test_repeated_kills_of_the_daemon_do_not_hold_a_record_that_then_loads(
    bench: Bench,
) -> None:
    await declare(bench, "a")
    for _ in range(3):
        await crash_while_loading(bench)
        await bench.engine.let_load()
        await bench.ready("a")
        await bench.crash()
    await bench.engine.let_load()
    await bench.ready("a")


async def test_two_machine_crashes_hold_the_loaded_records(bench: Bench) -> None:
    await declare(bench, "a")
    await crash_while_loaded(bench, "a")
    await crash_while_loaded(bench, "a")
    assert "the machine crashed twice" in await bench.reason("a", HELD)
    assert bench.engine.loads.empty()


async def test_a_reboot_after_a_clean_stop_does_not_count(bench: Bench) -> None:
    await declare(bench, "a")
    for _ in range(3):
        await bench.engine.let_load()
        await bench.ready("a")
        bench.boots += 1
        await bench.restart()
    await bench.engine.let_load()
    await bench.ready("a")


async def test_a_record_unloaded_before_a_machine_crash_is_not_suspected(bench: Bench) -> None:
    await declare(bench, "a")
    await bench.engine.let_load()
    await bench.ready("a")
    bench.source.declare(("a", replace(spec(), suspend=True)))
    await bench.reason("a", "Suspended")
    await spin(lambda: not _loaded(bench))
    await bench.crash(reboot=True)
    assert bench.store.suspicions() == {}


def _loaded(bench: Bench) -> frozenset[str]:
    last = bench.store.last_run()
    assert last is not None
    return last.loaded


@pytest.mark.parametrize("end", ["hour", "clean stop", "unload", "change"])
async def test_events_that_clear_a_suspicion(bench: Bench, end: str) -> None:
    await declare(bench, "a")
    await crash_while_loaded(bench, "a")
    await bench.engine.let_load()
    await bench.ready("a")
    assert bench.store.suspicions()["a"].machine_crashes == 1
    if end == "hour":
        bench.clock.advance(FORGIVEN_SECONDS)
        await spin(lambda: not bench.store.suspicions())
    elif end == "clean stop":
        await bench.restart()
        await bench.engine.let_load()
        await bench.ready("a")
    elif end == "unload":
        bench.source.declare(("a", replace(spec(), suspend=True)))
        await bench.reason("a", "Suspended")
        bench.source.declare(("a", spec()))
        await bench.engine.let_load()
        await bench.ready("a", 3)
    else:
        await declare(bench, "a", context_length=100)
        await bench.engine.let_load()
        await bench.ready("a", 2)
    await bench.crash(reboot=True)
    assert bench.store.suspicions()["a"].machine_crashes == 1
    await bench.engine.let_load()
    await bench.ready("a")


async def test_crashes_add_up_only_until_they_are_cleared(bench: Bench) -> None:
    await declare(bench, "a")
    await crash_while_loaded(bench, "a")
    await bench.engine.let_load()
    await bench.ready("a")
    bench.clock.advance(FORGIVEN_SECONDS - 31)
    await bench.crash(reboot=True)
    await bench.reason("a", HELD)


async def test_a_change_of_spec_retries_a_held_record(bench: Bench) -> None:
    await declare(bench, "a")
    await crash_while_loading(bench)
    await crash_while_loading(bench)
    await bench.reason("a", HELD)
    await declare(bench, "a", context_length=100)
    await bench.engine.let_load()
    await bench.ready("a", 2)


async def test_a_load_that_would_join_a_held_record_is_rejected_at_once(bench: Bench) -> None:
    await load(bench, request())
    await bench.crash(reboot=True)
    await crash_while_loaded(bench, "tiny/llama")
    await bench.reason("tiny/llama", HELD)
    with pytest.raises(LoadError, match="the machine crashed twice") as raised:
        await bench.controller.load(request())
    assert raised.value.problem.reason is Reason.SUSPECTED_HOST_CRASH
    with pytest.raises(LoadError, match="the machine crashed twice"):
        await bench.controller.ready_for("tiny/llama")
    # Other settings make another spec.
    answer = await load(bench, request(context_length=100))
    assert answer.record.generation == 2


async def test_a_first_load_that_crashes_twice_is_abandoned(bench: Bench) -> None:
    asking = asyncio.create_task(bench.controller.load(request()))
    await crash_while_loading(bench)
    with pytest.raises(LoadError, match="stopping"):
        await asking
    await crash_while_loading(bench)
    await bench.controller.until(lambda: bench.controller.answers() == ())
    (generation,) = bench.controller.history("tiny/llama")
    assert (generation.owner, generation.outcome) == (HTTP, "Failed")
    assert "the daemon crashed twice" in generation.message
    assert bench.engine.loads.empty()


async def test_a_suspicion_applies_to_the_last_good_spec_as_well(bench: Bench) -> None:
    await load(bench, request())
    asking = asyncio.create_task(bench.controller.load(request(context_length=100)))
    await crash_while_loading(bench)
    with pytest.raises(LoadError, match="stopping"):
        await asking
    await crash_while_loading(bench)
    await bench.reason("tiny/llama", HELD)
    answer = bench.controller.answer("tiny/llama")
    assert answer is not None
    assert answer.record.generation == 2
    assert bench.engine.loads.empty()


async def test_clear_also_resets_back_off_and_permanent_failures(bench: Bench) -> None:
    from tests.controller.test_controller import BROKEN

    await declare(bench, "a")
    await bench.engine.let_load(BROKEN)
    await bench.reason("a", "LoadFailed")
    assert bench.controller.clear("a").status.ready is False
    await bench.engine.let_load(replace(BROKEN, permanent=False))
    await bench.reason("a", "BackingOff")
    bench.controller.clear("a")
    await bench.engine.let_load()
    await bench.ready("a")
    assert bench.controller.clear("a").status.ready
    with pytest.raises(LoadError, match="there is no record 'b'"):
        bench.controller.clear("b")
