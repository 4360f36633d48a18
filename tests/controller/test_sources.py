"""Sources that are held, suspended, or select other nodes."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.controller import SourceSync, source_sync
from reconciler.controller.source_sync import PASSES_BETWEEN_PIECES, PIECE, SourceView
from reconciler.core import absorb as absorbing
from reconciler.core.absorb import VANISHED_SECONDS
from reconciler.core.errors import LoadError, Reason
from reconciler.core.manifest import Diagnostic, SourceLocation
from reconciler.core.records import LoadSpec, Record
from reconciler.core.selection import Ahead, Selection, select
from reconciler.core.selector import Requirement
from reconciler.core.snapshot import Commit, Declared, ManifestFile, Snapshot
from tests.controller.fakes import Bench, FakeSource, spin


def feed(bench: Bench) -> SourceSync:
    return bench.controller.source(FakeSource.name)


def declared(bench: Bench) -> set[str]:
    return {a.record.name for a in bench.controller.answers()}


def files(bench: Bench) -> tuple[ManifestFile, ...]:
    view = feed(bench).view
    return () if view is None else view.snapshot.files


async def pushed(bench: Bench, commit: str, *names: str) -> None:
    """Push a commit, and wait until it is processed."""
    bench.source.push(commit, *names)

    def is_seen() -> bool:
        view = feed(bench).view
        return (
            view is not None
            and view.snapshot.commit is not None
            and view.snapshot.commit.attempted == commit
        )

    await bench.controller.until(is_seen)


async def loaded(bench: Bench, commit: str, *names: str) -> None:
    await pushed(bench, commit, *names)
    for _ in names:
        await bench.engine.let_load()
    for name in names:
        await bench.ready(name)


async def test_a_commit_that_would_unload_most_is_held_until_confirmed(
    bench: Bench,
) -> None:
    await loaded(bench, "one", *"abcd")
    await pushed(bench, "two", "a")
    assert declared(bench) == set("abcd")
    assert bench.source.accepted == ["one"]
    view = feed(bench).view
    assert view is not None
    assert view.snapshot.commit is not None
    assert view.snapshot.commit.applied == "one"
    assert "would unload 3 of 4 loaded records: b, c, d" in str(view.snapshot.problem)
    record = (await bench.ready("a")).record
    assert any("would unload" in c.message for c in view.complaints(record))
    feed(bench).confirm()
    assert declared(bench) == {"a"}
    assert bench.source.accepted == ["one", "two"]
    with pytest.raises(LoadError) as raised:
        feed(bench).confirm()
    assert raised.value.problem.reason is Reason.NOTHING_HELD


async def test_a_held_commit_can_be_confirmed_without_the_repository(
    bench: Bench,
) -> None:
    await loaded(bench, "one", *"abcd")
    await pushed(bench, "two", "a")
    bench.source.push("one", *"abcd", attempted="nothing", problem="gone")
    await bench.controller.until(lambda: "gone" in str(feed(bench).view))
    feed(bench).confirm()
    assert declared(bench) == {"a"}


async def test_a_later_commit_replaces_a_held_one(bench: Bench) -> None:
    await loaded(bench, "one", *"abcd")
    await pushed(bench, "two", "a")
    await pushed(bench, "three", *"abc")
    assert declared(bench) == set("abc")
    assert feed(bench).guarded is None


async def test_a_held_commit_is_still_held_after_a_restart(bench: Bench) -> None:
    await loaded(bench, "one", *"abcd")
    await bench.restart()
    await pushed(bench, "two", "a")
    assert declared(bench) == set("abcd")
    assert feed(bench).guarded is not None


async def test_a_suspended_source_is_not_followed_and_a_restart_does_not_change_it(
    bench: Bench,
) -> None:
    await loaded(bench, "one", "a")
    feed(bench).suspend()
    with pytest.raises(LoadError) as raised:
        await feed(bench).sync()
    assert raised.value.problem.reason is Reason.SUSPENDED
    await bench.restart()
    assert feed(bench).suspended
    bench.source.push("two", "b")
    await bench.engine.let_load()  # the record declared before
    await bench.ready("a")
    assert declared(bench) == {"a"}
    await feed(bench).resume()
    await bench.engine.let_load()
    await bench.ready("b")
    assert declared(bench) == {"b"}


async def test_a_record_for_other_nodes_is_rejected_by_http(bench: Bench) -> None:
    elsewhere = LoadSpec("tiny/llama", node_selector=(Requirement("role", "In", ("prod",)),))
    with pytest.raises(LoadError, match="'a' is meant for nodes with role In prod") as raised:
        await bench.controller.put("a", elsewhere)
    assert raised.value.problem.reason is Reason.NOT_SELECTED
    assert declared(bench) == set()


async def test_an_unknown_source_is_named(bench: Bench) -> None:
    with pytest.raises(LoadError, match="there is no source 'git:x'"):
        bench.controller.source("git:x")


async def test_a_commit_that_declares_a_name_twice_is_rejected(bench: Bench) -> None:
    await loaded(bench, "one", "a")
    await pushed(bench, "two", "a", "b", "b")
    view = feed(bench).view
    assert view is not None
    assert view.snapshot.commit is not None
    assert view.snapshot.commit.applied == "one"
    assert "b is declared more than once: b.yaml:1, b.yaml:1" in str(view.snapshot.problem)
    assert (declared(bench), bench.source.accepted) == ({"a"}, ["one"])
    with pytest.raises(LoadError, match="nothing in"):
        feed(bench).confirm()


async def test_resume_scans_again_and_ignores_snapshots_of_the_suspension(bench: Bench) -> None:
    await loaded(bench, "one", "a")
    feed(bench).suspend()
    bench.source.push("two", "b")
    await spin(bench.source.queue.empty)  # it was processed
    bench.source.now = Snapshot(
        FakeSource.name,
        (ManifestFile("c.yaml", (Declared("c", LoadSpec("tiny/llama", suspend=True), 1),)),),
        commit=Commit("three", "three"),
    )
    await feed(bench).resume()
    await bench.controller.until(lambda: "c" in declared(bench))
    assert (declared(bench), bench.source.accepted) == ({"c"}, ["one", "three"])


async def test_changes_of_a_suspended_source_cannot_be_confirmed(bench: Bench) -> None:
    await loaded(bench, "one", *"abcd")
    await pushed(bench, "two", "a")
    feed(bench).suspend()
    with pytest.raises(LoadError) as raised:
        feed(bench).confirm()
    assert raised.value.problem.reason is Reason.SUSPENDED
    assert declared(bench) == set("abcd")


async def test_a_mass_removal_from_a_directory_needs_confirmation(
    bench: Bench,
) -> None:
    specs = [(name, LoadSpec("tiny/llama")) for name in "abcd"]
    bench.source.declare(*specs)
    for _ in specs:
        await bench.engine.let_load()
    for name in "abcd":
        await bench.ready(name)
    bench.source.declare(specs[0])
    await spin(bench.source.queue.empty)
    bench.clock.advance(VANISHED_SECONDS)

    def unconfirmed() -> set[str]:
        view = feed(bench).view
        return set(view.unconfirmed) if view is not None else set()

    await bench.controller.until(lambda: unconfirmed() == set("bcd"))
    assert declared(bench) == set("abcd")
    feed(bench).confirm()
    assert declared(bench) == {"a"}


def test_errors_of_files_are_collected_once_and_not_for_each_record() -> None:
    looks = 0

    class Files(tuple[ManifestFile, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[ManifestFile]:
            nonlocal looks
            looks += 1
            return super().__iter__()

    flaw = Diagnostic("it is wrong", SourceLocation(1, 1))
    files = Files([ManifestFile("bad.yaml", flaws=(flaw,)), ManifestFile("good.yaml")])
    view = SourceView(Snapshot("files", files), {}, {})
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(100):
        file = "bad.yaml" if number % 2 else "good.yaml"
        record = Record(f"a{number}", "files", LoadSpec("m"), at, file=file, line=1)
        assert [c.message for c in view.complaints(record)] == ["it is wrong"] * (number % 2)
    assert looks == 1


async def test_a_thousand_records_are_removed_in_batches(bench: Bench) -> None:
    specs = [(f"n{i}", LoadSpec("tiny/llama", suspend=True)) for i in range(PIECE)]
    more = [(f"m{i}", LoadSpec("tiny/llama", suspend=True)) for i in range(2 * PIECE)]
    bench.source.declare(*specs, *more)
    await bench.controller.until(lambda: len(declared(bench)) == PIECE)
    bench.clock.advance(0.0)
    assert len(declared(bench)) == 3 * PIECE
    bench.source.declare(*specs)
    await spin(lambda: len(files(bench)) == PIECE)
    seen = []
    while len(declared(bench)) > PIECE:
        seen.append(len(declared(bench)))
        bench.clock.step()
    assert list(dict.fromkeys(seen)) == [3 * PIECE, 2 * PIECE]
    assert seen.count(2 * PIECE) == PASSES_BETWEEN_PIECES


async def test_a_thousand_records_are_applied_in_batches(bench: Bench) -> None:
    specs = [(f"n{i}", LoadSpec("tiny/llama", suspend=True)) for i in range(3 * PIECE - 1)]
    bench.source.declare(*specs)
    await bench.controller.until(lambda: len(declared(bench)) == PIECE)
    assert feed(bench).view is None
    for _ in range(PASSES_BETWEEN_PIECES - 1):  # passes in which other calls are served
        bench.clock.step()
        assert len(declared(bench)) == PIECE
    bench.clock.step()
    assert len(declared(bench)) == 2 * PIECE
    bench.clock.advance(0.0)
    await bench.controller.until(lambda: len(declared(bench)) == len(specs))
    assert feed(bench).view is not None


async def test_a_source_is_followed_after_one_commit_changes_and_removes_a_record(
    bench: Bench,
) -> None:
    """Regression: the removed record was counted but not compared; the next commit failed."""
    await loaded(bench, "one", "a", "b")
    await pushed(bench, "two", "b")
    await pushed(bench, "three", "b", "c")
    assert declared(bench) == {"b", "c"}


async def test_documents_of_many_files_are_selected_outside_the_event_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Selection over 10,000 files blocked the event loop for 0.1 s."""
    threads: list[threading.Thread] = []

    def noted(*arguments: Any) -> Selection:
        threads.append(threading.current_thread())
        return select(*arguments)

    for module in (source_sync, absorbing):
        monkeypatch.setattr(module, "select", noted)
    monkeypatch.setattr(source_sync, "MANY_FILES", 2)
    await pushed(bench, "one", "a", "b")
    assert declared(bench) == {"a", "b"}
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    threads.clear()
    await pushed(bench, "two", "a")
    assert threads == [threading.main_thread()]


def test_a_selection_of_an_older_snapshot_is_not_used() -> None:
    older, newer = (select(Snapshot("source"), {}) for _ in range(2))
    ahead = Ahead(older, newer)
    assert ahead.of(older) is newer
    assert ahead.of(newer) is ahead.of(None) is None
