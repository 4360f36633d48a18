"""A failure of one record affects no other."""

import ast
import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from reconciler import controller
from reconciler.controller.mutations import LOCKED_SECONDS
from reconciler.controller.reconciler import UNHEALTHY_PASSES, UNLOCKED_SECONDS
from reconciler.controller.state import RecordState
from reconciler.core import plan as planning
from reconciler.core.conditions import derive
from reconciler.core.defaults import Defaults
from reconciler.core.errors import LoadError, Reason
from reconciler.core.plan import Action
from reconciler.core.records import Record, Status
from reconciler.store.database import NAME
from tests.controller.fakes import Bench, load, request, spec, spin


async def test_a_record_that_cannot_be_planned_reports_it_and_the_others_load(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = planning._Planner.next_action

    def fail_for_a(planner: planning._Planner, record: Record) -> Action | None:
        if record.name == "a":
            raise RecursionError("too deep")
        return planned(planner, record)

    with monkeypatch.context() as patch:
        patch.setattr(planning._Planner, "next_action", fail_for_a)
        bench.source.declare(("a", spec()), ("b", spec("tiny/qwen3")))
        await bench.engine.let_load()
        await bench.ready("b")
        message = await bench.reason("a", "InternalError")
        assert "RecursionError: too deep (test_isolation.py:" in message
        with pytest.raises(LoadError, match="too deep") as raised:
            await bench.controller.load(replace(request(), instance_id="a"))
        assert raised.value.problem.reason is Reason.INTERNAL_ERROR
    bench.clock.advance(planning.UNPLANNED_SECONDS)
    await bench.engine.let_load()
    await bench.ready("a")


async def test_a_record_whose_report_fails_has_the_error_and_the_others_load(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:

    def fail_for_a(record: Record, *more: object) -> Status:
        if record.name == "a":
            raise ZeroDivisionError("a bug")
        return derive(record, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("reconciler.controller.report.derive", fail_for_a)
        bench.source.declare(("a", spec()), ("b", spec("tiny/qwen3")))
        assert "ZeroDivisionError: a bug" in await bench.reason("a", "InternalError")
        for _ in range(2):
            await bench.engine.let_load()
        await bench.ready("b")
    bench.clock.advance(planning.UNPLANNED_SECONDS)
    await bench.ready("a")


async def test_a_status_that_cannot_be_written_blocks_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = bench.store.put

    def fail_for_a(record: Record, status: Status, at: datetime) -> None:
        put(record, status, at)
        if record.name == "a" and record.last_good is not None:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "put", fail_for_a)
        bench.source.declare(("a", spec()), ("b", spec("tiny/qwen3")))
        for _ in range(2):
            await bench.engine.let_load()
        await bench.ready("b")
        stored = {record.name: record.last_good for record, _ in bench.store.load()}
        assert stored == {"a": None, "b": spec("tiny/qwen3")}
    bench.clock.advance(planning.UNPLANNED_SECONDS)
    await bench.ready("a")


async def test_consecutive_failed_passes_are_reported_until_one_succeeds(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = bench.controller._reconciler
    failed = 0

    def fail(*_: object) -> None:
        nonlocal failed
        failed += 1
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(reconciler, "_refresh_lookups", fail)
        bench.source.declare(("a", spec()))
        for passes in range(1, UNHEALTHY_PASSES + 1):
            assert bench.controller.problem is None
            await spin(lambda passes=passes: failed == passes)  # type: ignore[misc]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            bench.clock.advance(1)
        problem = bench.controller.problem
        assert problem is not None
        assert "records are not reconciled" in problem.message
        assert "ZeroDivisionError: a bug" in problem.message
    bench.clock.advance(1)
    await bench.engine.let_load()
    await bench.ready("a")
    assert bench.controller.problem is None


def lock(tmp_path: Path) -> sqlite3.Connection:
    """Lock of the database by another program."""
    other = sqlite3.connect(tmp_path / "state" / NAME)
    other.execute("BEGIN IMMEDIATE")
    return other


async def test_a_change_waits_for_another_program_to_unlock_the_database(
    bench: Bench, tmp_path: Path
) -> None:
    await load(bench, request())
    with closing(lock(tmp_path)) as other:
        loading = asyncio.create_task(bench.controller.load(request("tiny/qwen3")))
        await bench.controller.until(lambda: bench.controller.problem is not None)
        unloading = asyncio.create_task(bench.controller.unload("tiny/llama"))
        for _ in range(3):
            await asyncio.sleep(0)
        # Requests continue meanwhile.
        async with bench.controller.request("tiny/llama", "completions", b""):
            pass
        bench.clock.advance(1)
        assert not loading.done()
        assert not unloading.done()
        other.rollback()
    bench.clock.advance(1)
    await bench.engine.let_load()
    assert (await loading).status.ready
    await unloading
    assert bench.controller.problem is None


async def test_a_persistent_lock_is_reported_and_pending_writes_are_retried(
    bench: Bench, tmp_path: Path
) -> None:
    await load(bench, request("tiny/qwen3"))
    bench.source.declare(("a", spec()))
    _, end = await bench.engine.loads.get()
    with closing(lock(tmp_path)) as other:
        end.set_result(None)
        await bench.controller.until(lambda: bench.controller.problem is not None)
        unloading = asyncio.create_task(bench.controller.unload("tiny/qwen3"))
        while not unloading.done():
            await asyncio.sleep(0)
            bench.clock.advance(LOCKED_SECONDS / 10)
        with pytest.raises(LoadError, match=f"another program uses {NAME}; stop it") as raised:
            await unloading
        assert raised.value.problem.reason is Reason.STATE_UNWRITABLE
        other.rollback()
    while bench.controller.problem is not None:
        await asyncio.sleep(0)
        bench.clock.advance(UNLOCKED_SECONDS)
    answer = await bench.ready("a")
    await spin(lambda: (answer.record, answer.status) in bench.store.load())


async def test_a_stop_during_a_lock_of_the_database_is_not_a_crash(
    bench: Bench, tmp_path: Path
) -> None:
    await load(bench, request())
    with closing(lock(tmp_path)) as other:
        stopping = asyncio.create_task(bench.controller.close())
        await spin(lambda: bench.store.problem is not None)
        assert not stopping.done()
        other.rollback()
    while not stopping.done():
        await asyncio.sleep(0)
        bench.clock.advance(LOCKED_SECONDS / 10)
    last = bench.store.last_run()
    assert last is not None
    assert last.clean


async def test_a_first_load_takes_three_transactions(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    plans = 0
    plan = planning.plan

    def counted(*args: object) -> tuple[Action, ...]:
        nonlocal plans
        plans += 1
        return plan(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("reconciler.controller.planning.plan", counted)
    await bench.controller.until(lambda: bench.controller.machine is not None)
    bench.store._db.set_trace_callback(statements.append)
    await load(bench, request())
    bench.store._db.set_trace_callback(None)
    # The record; the start of the attempt; its end with all changes.
    assert statements.count("COMMIT") == 3
    assert plans <= 4


async def test_a_thousand_manifests_are_applied_in_a_few_transactions(bench: Bench) -> None:
    statements: list[str] = []
    bench.store._db.set_trace_callback(statements.append)
    suspended = replace(spec(), suspend=True)
    bench.source.declare(*((f"n{i}", suspended) for i in range(1000)))
    while bench.controller.answer("n999") is None:
        bench.clock.advance(0.0)  # they are applied in batches
        await asyncio.sleep(0)
    await bench.reason("n999", "Suspended")
    bench.store._db.set_trace_callback(None)
    assert statements.count("COMMIT") <= 50


def test_the_state_of_a_record_is_only_changed_by_its_methods() -> None:
    record_state = ast.parse(Path(controller.__file__).with_name("state.py").read_text("utf-8"))
    facts = {
        node.attr
        for node in ast.walk(record_state)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    assert {"status", "phase", "retry", "idle", "undo"} <= facts
    for file in Path(controller.__file__).parent.glob("*.py"):
        text = file.read_text("utf-8")
        if file.name == "state.py" or RecordState.__name__ not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own = isinstance(node.value, ast.Name) and node.value.id == "self"
                assert own or node.attr not in facts, f"{file.name}:{node.lineno}"


async def test_a_record_that_cannot_be_stored_is_skipped_and_the_others_load(
    bench: Bench,
) -> None:
    prompt = Defaults(system_prompt="\ud800")
    bench.source.declare(("a", replace(spec(), defaults=prompt)), ("b", spec("tiny/qwen3")))
    await bench.engine.let_load()
    await bench.ready("b")
    assert [a.record.name for a in bench.controller.answers()] == ["b"]
    with pytest.raises(LoadError, match=r"'c' \('http'\) cannot be stored") as raised:
        await bench.controller.put("c", replace(spec(), defaults=prompt))
    assert raised.value.problem.reason is Reason.IMPOSSIBLE_SETTING


async def test_a_waiter_for_a_removed_record_stops_no_pass(bench: Bench) -> None:
    await load(bench, request())
    await bench.controller.unload("tiny/llama")
    bench.controller._registry.activate("tiny/llama")
    bench.source.declare(("a", spec()))
    await bench.engine.let_load()
    await bench.ready("a")
