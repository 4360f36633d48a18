"""While the state cannot be written, no change is partly applied, and none is lost."""

import asyncio

import pytest
from structlog.testing import capture_logs

from reconciler.controller.reconciler import WRITE_AGAIN_SECONDS
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.manifest import Diagnostic, SourceLocation
from reconciler.core.records import LoadRequest, LoadSpec
from reconciler.core.snapshot import Commit, Snapshot
from tests.controller.fakes import Bench, load, request, spec, spin
from tests.controller.machine import World

DIED = Problem(Reason.WORKER_DIED, "it died", permanent=False)
BROKEN = Problem(Reason.LOAD_FAILED, "it broke")


async def refused(bench: Bench, asked: LoadRequest) -> None:
    with pytest.raises(LoadError, match="cannot write to state directory") as raised:
        await bench.controller.load(asked)
    assert raised.value.problem.reason is Reason.STATE_UNWRITABLE


async def writable_again(bench: Bench) -> None:
    """Make the state writable, and wait until the controller notices."""
    bench.let_write(True)
    bench.clock.advance(WRITE_AGAIN_SECONDS)
    await bench.controller.until(lambda: bench.controller.problem is None)


async def test_a_load_that_cannot_be_persisted_is_rejected_without_effect(
    bench: Bench,
) -> None:
    bench.let_write(False)
    await refused(bench, request())
    assert bench.controller.answers() == ()
    assert bench.store.load() == []
    await writable_again(bench)
    assert (await load(bench, request())).joined is False


async def test_an_unload_and_a_put_that_cannot_be_persisted_change_nothing(
    bench: Bench,
) -> None:
    await load(bench, request(context_length=100))
    before = bench.controller.answers()
    bench.let_write(False)
    with pytest.raises(LoadError, match="cannot write"):
        await bench.controller.unload("tiny/llama")
    with pytest.raises(LoadError, match="cannot write"):
        await bench.controller.put("tiny/llama", spec(context_length=200))
    await refused(bench, request(context_length=200))
    assert bench.controller.answers() == before
    assert set(bench.engine.loaded) == {"tiny/llama"}
    # Calls that write nothing still work.
    assert (await bench.controller.load(request())).joined
    assert await bench.controller.ready_for("tiny/llama") == "tiny/llama"
    await writable_again(bench)
    assert bench.controller.answers() == before


async def test_a_write_failure_and_its_end_are_logged_once(bench: Bench) -> None:
    with capture_logs() as lines:
        await load(bench, request())
        bench.let_write(False)
        for _ in range(3):
            await refused(bench, request("tiny/qwen3"))
            bench.clock.advance(WRITE_AGAIN_SECONDS)
        assert bench.controller.problem is not None
        await writable_again(bench)
    events = [line["event"] for line in lines if line["event"].startswith("the state")]
    assert events == ["the state cannot be written", "the state can be written again"]
    assert not any("exc_info" in line for line in lines)
    reasons = [
        e.reason
        async for e in bench.controller.events.follow(wait=False)
        if e and e.type == "state"
    ]
    assert reasons == ["Unwritable", "Writable"]


async def test_no_load_starts_that_cannot_be_persisted(bench: Bench) -> None:
    await load(bench, request())
    bench.source.declare(("a", spec("tiny/qwen3")))
    _, end = await bench.engine.loads.get()
    bench.let_write(False)
    end.set_exception(LoadError(DIED))
    await bench.controller.until(lambda: bench.controller.problem is not None)
    bench.clock.advance(10 * WRITE_AGAIN_SECONDS)  # its back-off is over
    await bench.reason("a", "StateUnwritable")
    assert bench.engine.loads.empty()
    await writable_again(bench)
    await bench.engine.let_load()
    await bench.ready("a")


async def test_a_status_change_is_effective_at_once_and_persisted_later(bench: Bench) -> None:
    await load(bench, request())
    bench.let_write(False)
    bench.engine.on_death(bench.engine.loaded.pop("tiny/llama"), DIED)
    await bench.reason("tiny/llama", DIED.reason.value)
    (stored,) = [status for _, status in bench.store.load()]
    assert stored.ready
    bench.let_write(True)
    bench.clock.advance(WRITE_AGAIN_SECONDS)
    await bench.engine.let_load()
    answer = await bench.ready("tiny/llama")
    await spin(lambda: bench.store.load() == [(answer.record, answer.status)])
    assert answer.status.restarts == 1
    assert next(bench.controller.history("tiny/llama")).outcome == "Loaded"


async def test_the_end_of_an_attempt_is_persisted_later_and_is_no_crash(
    bench: Bench,
) -> None:
    bench.source.declare(("a", spec()))
    _, end = await bench.engine.loads.get()
    bench.let_write(False)
    end.set_result(None)
    await spin(lambda: "a" in bench.engine.loaded and not bench.controller._reconciler.running)
    await writable_again(bench)
    await bench.ready("a")
    last = bench.store.last_run()
    assert last is not None
    assert (last.interrupted, last.loaded) == ((), frozenset({"a"}))


async def test_a_first_load_that_cannot_be_persisted_is_undone(bench: Bench) -> None:
    asking = asyncio.create_task(bench.controller.load(request()))
    _, end = await bench.engine.loads.get()
    bench.let_write(False)
    end.set_result(None)
    with pytest.raises(LoadError, match="cannot write"):
        await asking
    await writable_again(bench)
    await spin(lambda: bench.controller.is_gone("tiny/llama"))
    assert bench.store.load() == []
    assert bench.engine.unloads == ["tiny/llama"]


async def test_a_failed_update_is_undone_once_it_can_be_persisted(bench: Bench) -> None:
    await load(bench, request(context_length=100))
    asking = asyncio.create_task(bench.controller.load(request(context_length=200)))
    _, end = await bench.engine.loads.get()
    bench.let_write(False)
    end.set_exception(LoadError(BROKEN))
    with pytest.raises(LoadError, match="it broke"):
        await asking
    await writable_again(bench)
    answer = await bench.ready("tiny/llama", 3)
    assert answer.record.spec.config.context_length == 100
    assert bench.store.load()[0][0] == answer.record


async def test_a_failed_first_load_is_removed_once_it_can_be_persisted(bench: Bench) -> None:
    asking = asyncio.create_task(bench.controller.load(request()))
    _, end = await bench.engine.loads.get()
    bench.let_write(False)
    end.set_exception(LoadError(DIED))
    with pytest.raises(LoadError, match="it died"):
        await asking
    await writable_again(bench)
    await bench.controller.until(lambda: bench.controller.answers() == ())
    assert bench.store.load() == []
    assert bench.engine.loads.empty()
    assert next(bench.controller.history("tiny/llama")).message == "it died"


async def test_an_unload_completes_though_it_cannot_be_persisted(bench: Bench) -> None:
    await load(bench, request())
    bench.engine.draining = asyncio.get_running_loop().create_future()
    unloading = asyncio.create_task(bench.controller.unload("tiny/llama"))
    await spin(lambda: bool(bench.engine.unloads))
    bench.let_write(False)
    bench.engine.draining.set_result(None)
    await unloading
    assert bench.engine.loaded == {}
    await writable_again(bench)


async def test_a_source_is_applied_later_and_no_change_is_lost(
    bench: Bench,
) -> None:
    bench.source.declare(("a", spec()))
    await bench.engine.let_load()
    await bench.ready("a")
    bench.let_write(False)
    bench.source.declare(("a", spec(context_length=100)), ("b", spec()))
    await bench.controller.until(lambda: bench.controller.problem is not None)
    with pytest.raises(LoadError, match="cannot write"):
        await bench.controller.sources[0].sync()
    assert [a.record.generation for a in bench.controller.answers()] == [1]
    await writable_again(bench)
    await bench.engine.let_load()
    await bench.engine.let_load()
    await bench.ready("a", 2)
    await bench.ready("b")
    await bench.controller.sources[0].sync()


async def test_the_latest_snapshot_is_applied_after_a_write_failure(bench: Bench) -> None:
    bench.let_write(False)
    bench.source.declare(("a", spec()))
    await bench.controller.until(lambda: bench.controller.problem is not None)
    bench.source.declare(("b", spec()), flaw=Diagnostic("bad", SourceLocation(1, 1)))
    await spin(bench.source.queue.empty)
    await writable_again(bench)
    await bench.engine.let_load()
    await bench.ready("b")
    assert [a.record.name for a in bench.controller.answers()] == ["b"]


async def test_a_confirmation_that_cannot_be_persisted_is_an_error_and_is_applied_later(
    bench: Bench,
) -> None:
    names = ("a", "b", "c", "d")
    bench.source.push("one", *names)
    for _ in names:
        await bench.engine.let_load()
    for name in names:
        await bench.ready(name)
    bench.source.push("two", "a")
    feed = bench.controller.sources[0]
    await bench.controller.until(lambda: feed.guarded is not None)
    bench.let_write(False)
    with pytest.raises(LoadError, match="cannot write"):
        feed.confirm()
    with pytest.raises(LoadError, match="cannot write"):
        feed.suspend()
    assert not feed.suspended
    assert len(bench.controller.answers()) == 4
    await writable_again(bench)
    await bench.controller.until(lambda: len(bench.controller.answers()) == 1)
    assert isinstance(feed.view and feed.view.snapshot, Snapshot)
    assert feed.view is not None
    assert feed.view.snapshot.commit == Commit("two", "two")


async def test_a_clear_that_cannot_be_persisted_is_an_error(bench: Bench) -> None:
    bench.source.declare(("a", spec()))
    await bench.engine.let_load(BROKEN)
    await bench.reason("a", "LoadFailed")
    bench.let_write(False)
    with pytest.raises(LoadError, match="cannot write"):
        bench.controller.clear("a")
    await bench.reason("a", "LoadFailed")
    await writable_again(bench)


async def test_a_stop_that_cannot_be_persisted_is_not_an_error(bench: Bench) -> None:
    await load(bench, request())
    bench.let_write(False)
    await bench.restart()
    await bench.engine.let_load()
    await bench.ready("tiny/llama")


def test_a_load_after_a_crash_counts_though_it_cannot_be_persisted(world: World) -> None:
    world.files["1.yaml"] = (("a", LoadSpec("p/small", idle_ttl_seconds=20)),)
    world.scan()
    world.crash(reboot=False)
    world.pass_time(30)
    world.let_write(False)
    world.end(world.engine.pending[0], None)
    status = world.controller.answers()[0].status
    assert (status.loaded_by, world.engine.pending) == ("Load", [])
    world.check()


def test_a_load_that_cannot_wake_an_idle_record_is_rejected_and_leaves_no_waiter(
    world: World,
) -> None:
    world.load(LoadRequest("p/small", instance_id="a", idle_ttl_seconds=20))
    world.end(world.engine.pending[0], None)
    world.let_write(False)
    world.pass_time(30)
    world.end(world.engine.pending[0], None)
    world.load(LoadRequest("p/small", instance_id="a"))
    assert world.calls == []
    world.check()
