"""History of specs, and events."""

import pytest

from reconciler.controller.events import KEPT
from reconciler.core.absorb import VANISHED_SECONDS
from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.core.manifest import Diagnostic, SourceLocation
from reconciler.core.records import LoadSpec
from tests.controller.fakes import Bench, load, request, spec

BROKEN = Problem(Reason.LOAD_FAILED, "it broke")


async def kept_events(bench: Bench, after: str | None = None) -> list[str]:
    """Short form of the kept events."""
    return [
        "lost" if event is None else f"{event.type} {event.name} {event.reason}"
        async for event in bench.controller.events.follow(after, wait=False)
    ]


async def test_history_keeps_each_spec_and_its_outcome(bench: Bench) -> None:
    await load(bench, request(context_length=1))
    with pytest.raises(LoadError):
        await load(bench, request(context_length=2), BROKEN)
    await bench.ready("tiny/llama", 3)
    await bench.controller.unload("tiny/llama")
    with pytest.raises(LoadError):
        await load(bench, request("tiny/qwen3"), BROKEN)
    kept = list(bench.controller.history("tiny/llama"))
    assert [(g.generation, g.spec.config.context_length, g.outcome) for g in kept] == [
        (3, 1, "Loaded"),
        (2, 2, "Failed"),
        (1, 1, "Loaded"),
    ]
    assert kept[1].message == "it broke"
    assert kept[2].load_time_seconds == 0.5
    assert all(g.ended_at is not None for g in kept)
    (failed,) = bench.controller.history("tiny/qwen3")
    assert (failed.outcome, failed.message) == ("Failed", "it broke")
    assert len(list(bench.controller.history(None))) == 4


async def test_a_generation_that_never_settled_is_superseded(bench: Bench) -> None:
    bench.source.declare(("a", spec(context_length=1)))
    _, end = await bench.engine.loads.get()
    bench.source.declare(("a", spec(context_length=2)))
    await bench.controller.until(lambda: bench.controller.answers()[0].record.generation == 2)
    bench.source.declare()
    await bench.controller.until(lambda: _files(bench) == 0)
    bench.clock.advance(VANISHED_SECONDS)
    await bench.controller.until(lambda: not bench.controller.answers())
    end.set_result(None)
    outcomes = [g.outcome for g in bench.controller.history("a")]
    assert outcomes == ["Removed", "Superseded"]


async def test_changes_transitions_and_phases_are_emitted_once(bench: Bench) -> None:
    await load(bench, request(context_length=1))
    assert await kept_events(bench) == [
        "record tiny/llama Created",
        "transition tiny/llama Pending",
        "transition tiny/llama Loading",
        "phase tiny/llama weights",
        "transition tiny/llama Loaded",
    ]
    await load(bench, request("tiny/qwen3"))
    assert (await kept_events(bench)).count("transition tiny/llama Loaded") == 1


async def test_events_resume_after_an_id_and_report_lost_ones(bench: Bench) -> None:
    emit = bench.controller.events.emit
    for number in range(5):
        emit("record", f"n{number}", "Created", "x")
    ids = [e.id async for e in bench.controller.events.follow(wait=False) if e is not None]
    assert await kept_events(bench, ids[2]) == ["record n3 Created", "record n4 Created"]
    assert await kept_events(bench, ids[4]) == []
    for stranger in ("nonsense", "0-1", ids[0] + "9"):
        assert (await kept_events(bench, stranger))[0] == "lost"
    for number in range(KEPT + 5):
        emit("record", f"m{number}", "Created", "x")
    late = await kept_events(bench, ids[2])
    assert (late[0], len(late)) == ("lost", KEPT + 1)
    assert len(await kept_events(bench)) == KEPT


async def test_events_are_emitted_when_errors_of_sources_appear_and_disappear(bench: Bench) -> None:
    for flaw in (
        Diagnostic("bad", SourceLocation(2, 3), "spec.x"),
        Diagnostic("bad", SourceLocation(2, 3), "spec.x"),
    ):
        bench.source.declare(("a", spec()), flaw=flaw)
    await bench.engine.let_load()
    await bench.ready("a")
    bench.source.declare(("a", spec()), ("bad", LoadSpec("tiny/qwen3")))
    await bench.engine.let_load()
    await bench.ready("bad")
    events = [e async for e in bench.controller.events.follow(wait=False) if e is not None]
    sources = [e for e in events if e.type == "source"]
    assert [e.reason for e in sources] == ["Invalid", "Valid"]
    place = sources[0].place
    assert place is not None
    assert (place.file, place.line, place.column, place.key) == ("bad.yaml", 2, 3, "spec.x")


async def test_an_event_says_that_an_invalid_manifest_is_gone(bench: Bench) -> None:
    flaw = Diagnostic("bad", SourceLocation(2, 3), "spec.x")
    bench.source.declare(("a", spec()), flaw=flaw)
    await bench.engine.let_load()
    await bench.ready("a")
    bench.source.declare(("a", spec()), ("b", spec()))
    await bench.engine.let_load()
    await bench.ready("b")
    events = [e async for e in bench.controller.events.follow(wait=False) if e is not None]
    emitted = [(e.reason, e.message) for e in events if e.type == "source"]
    assert [reason for reason, _ in emitted] == ["Invalid", "Valid"]
    assert emitted[1][1] == "bad.yaml is gone, and its errors with it"


def _files(bench: Bench) -> int:
    view = bench.controller.source(bench.source.name).view
    return len(view.snapshot.files) if view is not None else 0
