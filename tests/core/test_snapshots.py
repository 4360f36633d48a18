"""Snapshots -> records, as the design requires."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from reconciler.core.absorb import (
    EMPTY_SECONDS,
    VANISHED_SECONDS,
    Absorbed,
    SourceState,
    absorb,
    guard,
)
from reconciler.core.manifest import Diagnostic, SourceLocation
from reconciler.core.records import (
    HTTP,
    LoadSpec,
    Record,
    RequestedSettings,
)
from reconciler.core.selection import duplicates, select
from reconciler.core.selector import Requirement
from reconciler.core.snapshot import Commit, Declared, ManifestFile, Snapshot

AT = datetime(2026, 1, 1, tzinfo=UTC)
HERE = "directory:/m"
SPEC = LoadSpec("p/m", RequestedSettings(context_length=10))
OTHER = LoadSpec("p/m", RequestedSettings(context_length=20))
FLAW = Diagnostic("bad", SourceLocation(1, 1))


def file(path: str, *documents: tuple[str, LoadSpec]) -> ManifestFile:
    declared = tuple(Declared(n, s, line) for line, (n, s) in enumerate(documents, 1))
    return ManifestFile(path, declared)


def invalid(path: str) -> ManifestFile:
    return ManifestFile(path, flaws=(FLAW,))


class Follower:
    """Absorbs snapshots one after the other, as the feed does."""

    def __init__(self, *records: Record) -> None:
        self.records = {r.name: r for r in records}
        self.memory = SourceState()
        self.confirmed: frozenset[str] = frozenset()

    def see(self, *files: ManifestFile, now: float, **more: object) -> Absorbed:
        return self.absorb(Snapshot(HERE, files, **more), now)  # type: ignore[arg-type]

    def absorb(self, snapshot: Snapshot, now: float) -> Absorbed:
        result = absorb(self.records, self.memory, snapshot, now, AT, confirmed=self.confirmed)
        self.records |= {r.name: r for r in result.upserts}
        for name in result.removals:
            del self.records[name]
        self.memory = result.memory
        return result


@pytest.fixture
def follower() -> Follower:
    """A follower that has seen a.yaml declare `a`, and b.yaml declare `b`."""
    follower = Follower()
    follower.see(file("a.yaml", ("a", SPEC)), file("b.yaml", ("b", SPEC)), now=0.0)
    return follower


B = file("b.yaml", ("b", SPEC))


def test_a_document_becomes_a_record_with_its_place(follower: Follower) -> None:
    expected = Record("a", HERE, SPEC, AT, file="a.yaml", line=1)
    assert follower.records["a"] == expected


def test_an_unchanged_snapshot_changes_nothing(follower: Follower) -> None:
    result = follower.see(file("a.yaml", ("a", SPEC)), B, now=1.0)
    assert (result.upserts, result.removals, result.check_at) == ((), (), None)


def test_a_changed_spec_is_a_new_generation(follower: Follower) -> None:
    follower.see(file("a.yaml", ("a", OTHER)), B, now=1.0)
    assert (follower.records["a"].spec, follower.records["a"].generation) == (OTHER, 2)
    assert follower.records["b"].generation == 1


def test_renaming_or_moving_a_file_changes_no_generation(follower: Follower) -> None:
    result = follower.see(file("sub/z.yaml", ("x", SPEC), ("a", SPEC)), B, now=1.0)
    assert result.removals == ()
    record = follower.records["a"]
    assert (record.generation, record.file, record.line) == (1, "sub/z.yaml", 2)


def test_a_vanished_document_is_removed_after_its_grace(follower: Follower) -> None:
    assert follower.see(B, now=10.0).check_at == 10.0 + VANISHED_SECONDS
    assert follower.see(B, now=10.0 + VANISHED_SECONDS - 0.01).removals == ()
    assert follower.see(B, now=10.0 + VANISHED_SECONDS).removals == ("a",)


def test_a_document_that_comes_back_in_time_is_never_removed(follower: Follower) -> None:
    follower.see(B, now=10.0)
    follower.see(file("a.yaml", ("a", SPEC)), B, now=11.0)
    assert follower.see(B, now=12.5).removals == ()
    assert follower.records["a"].generation == 1


def test_a_directory_that_becomes_empty_counts_as_empty_later(follower: Follower) -> None:
    assert follower.see(now=10.0, empty=True).check_at == 10.0 + EMPTY_SECONDS
    assert follower.see(now=10.0 + EMPTY_SECONDS - 0.01, empty=True).removals == ()
    assert follower.see(now=10.0 + EMPTY_SECONDS, empty=True).removals == ("a", "b")


def test_an_unreadable_directory_holds_everything(follower: Follower) -> None:
    for now in (10.0, 1000.0):
        result = follower.absorb(Snapshot(HERE, unreadable="gone"), now)
        assert (result.upserts, result.removals, result.check_at) == ((), (), None)
    assert set(follower.records) == {"a", "b"}


def test_an_invalid_file_keeps_its_records(follower: Follower) -> None:
    for now in (10.0, 1000.0):
        assert follower.see(invalid("a.yaml"), B, now=now).removals == ()
    assert follower.records["a"].spec == SPEC


def test_a_document_that_vanishes_as_an_invalid_file_appears_is_held_until_a_fix(
    follower: Follower,
) -> None:
    renamed = invalid("renamed.yaml")
    for now in (10.0, 1000.0):
        result = follower.see(renamed, B, now=now)
        assert (result.removals, result.check_at) == ((), None)
    fixed = file("renamed.yaml", ("c", SPEC))
    assert follower.see(fixed, B, now=2000.0).removals == ()
    assert follower.see(fixed, B, now=2000.0 + VANISHED_SECONDS).removals == ("a",)


def test_an_invalid_file_that_existed_before_holds_nothing(follower: Follower) -> None:
    old = invalid("old.yaml")
    follower.see(file("a.yaml", ("a", SPEC)), B, old, now=5.0)
    follower.see(B, old, now=10.0)
    assert follower.see(B, old, now=10.0 + VANISHED_SECONDS).removals == ("a",)


def test_one_bad_file_does_not_block_another(follower: Follower) -> None:
    follower.see(invalid("a.yaml"), file("b.yaml", ("b", OTHER)), now=1.0)
    assert follower.records["b"].spec == OTHER


def test_a_name_in_two_files_is_flagged_and_its_record_is_kept(follower: Follower) -> None:
    twice = file("c.yaml", ("a", OTHER), ("new", SPEC))
    again = file("d.yaml", ("new", SPEC))
    result = follower.see(file("a.yaml", ("a", SPEC)), B, twice, again, now=1.0)
    assert follower.records["a"].spec == SPEC
    assert "new" not in follower.records
    assert set(result.flagged) == {"a", "new"}
    assert "a.yaml:1" in result.flagged["a"]
    assert "c.yaml:1" in result.flagged["a"]


def test_a_manifest_takes_over_an_http_record_without_a_new_generation() -> None:
    http = Record("a", HTTP, SPEC, AT - timedelta(days=1), generation=4, provisional=True)
    follower = Follower(http)
    follower.see(file("a.yaml", ("a", SPEC)), now=0.0)
    expected = replace(http, owner=HERE, file="a.yaml", line=1, provisional=False)
    assert follower.records["a"] == expected


def test_a_record_of_another_source_is_not_changed() -> None:
    theirs = Record("a", "directory:/theirs", SPEC, AT, file="x.yaml", line=3)
    follower = Follower(theirs)
    result = follower.see(file("a.yaml", ("a", OTHER)), now=0.0)
    assert follower.records["a"] == theirs
    assert "x.yaml:3" in result.flagged["a"]
    assert follower.see(now=100.0).removals == ()


# -- errors are not removals ------------------------------------------------------------------

LATER = 10_000.0


@pytest.mark.parametrize(
    ("file_", "words"),
    [
        (ManifestFile("a.yaml"), "a.yaml exists but is empty"),
        (ManifestFile("a.yaml", open_end=True), "a.yaml exists but is empty"),
        (ManifestFile("a.yaml", ignored=("v1",)), "a.yaml exists but no longer declares anything"),
        (
            ManifestFile("a.yaml", (Declared("other", SPEC, 1),), open_end=True),
            "a.yaml ends after `---`",
        ),
    ],
)
def test_a_removal_without_a_clear_intent_is_held(
    follower: Follower, file_: ManifestFile, words: str
) -> None:
    for now in (1.0, 5.0, LATER):
        result = follower.see(file_, B, now=now)
        assert (result.removals, set(result.unconfirmed)) == ((), {"a"})
        assert words in result.held["a"]
    follower.confirmed = result.unconfirmed
    assert follower.see(file_, B, now=LATER + 1).removals == ("a",)


def test_a_held_document_that_comes_back_is_never_removed(follower: Follower) -> None:
    follower.see(ManifestFile("a.yaml"), B, now=1.0)
    result = follower.see(file("a.yaml", ("a", OTHER)), B, now=LATER)
    assert (result.held, follower.records["a"].generation) == ({}, 2)


def test_deleting_or_replacing_a_document_is_a_clear_intent(follower: Follower) -> None:
    follower.see(ManifestFile("a.yaml"), B, now=1.0)
    follower.see(B, now=LATER)
    assert follower.see(B, now=LATER + VANISHED_SECONDS).removals == ("a",)
    replaced = file("b.yaml", ("c", SPEC))
    follower.see(replaced, now=LATER + 10)
    assert follower.see(replaced, now=LATER + 10 + VANISHED_SECONDS).removals == ("b",)


def test_a_file_that_is_written_slowly_loses_nothing(follower: Follower) -> None:
    """Like `slow > all.yaml`: for a while, the file ends after each document."""
    whole = [("a", SPEC), ("b", SPEC), ("c", SPEC)]
    follower.see(file("all.yaml", *whole), now=1.0)
    for n, now in ((1, 10.0), (2, 35.0), (3, 60.0)):
        for seen in (now, now + 24.0):
            assert follower.see(file("all.yaml", *whole[:n]), now=seen).removals == ()
    assert set(follower.records) == {"a", "b", "c"}
    for now in (100.0, 100.0 + EMPTY_SECONDS):
        result = follower.see(file("all.yaml", *whole[:2]), now=now)
    assert result.removals == ("c",)


def test_an_emptied_folder_is_applied_after_a_delay() -> None:
    follower = Follower()
    follower.see(file("team/a.yaml", ("a", SPEC)), B, now=0.0)
    assert follower.see(B, now=1.0, empty_folders=("team/",)).check_at == 1.0 + EMPTY_SECONDS
    later = 1.0 + EMPTY_SECONDS
    assert follower.see(B, now=later, empty_folders=("team/",)).removals == ("a",)


@pytest.mark.parametrize(
    "folder",
    [
        ManifestFile("team/", flaws=(FLAW,)),
        ManifestFile("team/", ignored=("a link to nothing",), open_end=True),
    ],
)
def test_records_of_an_unreadable_folder_are_kept(folder: ManifestFile) -> None:
    follower = Follower()
    follower.see(file("team/x/a.yaml", ("a", SPEC)), B, now=0.0)
    for now in (1.0, LATER):
        assert follower.see(folder, B, now=now).removals == ()


def test_a_document_that_vanishes_as_an_empty_file_appears_is_held(follower: Follower) -> None:
    for now in (1.0, LATER):
        assert follower.see(ManifestFile("renamed.yaml"), B, now=now).removals == ()
    started = Follower(*follower.records.values())  # after a start every file is new
    for now in (1.0, LATER):
        result = started.see(ManifestFile("only-comments.yaml"), B, now=now)
    assert result.removals == ("a",)


def test_more_than_half_of_a_directory_at_once_is_held_until_it_is_confirmed() -> None:
    follower = loaded(*"abcd")
    files = {name: file(f"{name}.yaml", (name, SPEC)) for name in "abcd"}
    follower.see(*files.values(), now=0.0)
    for now in (1.0, LATER):
        result = follower.see(files["a"], now=now)
    assert (result.removals, set(result.unconfirmed)) == ((), set("bcd"))
    assert "it would unload 3 of 4 loaded records: b, c, d" in result.held["b"]
    follower.confirmed = result.unconfirmed
    assert set(follower.see(files["a"], now=LATER).removals) == set("bcd")


def test_half_of_a_directory_is_removed_at_once_and_the_rest_one_by_one() -> None:
    follower = loaded(*"abcd")
    files = [file(f"{name}.yaml", (name, SPEC)) for name in "abcd"]
    for n in (4, 2, 1):
        follower.see(*files[:n], now=n * -100.0)
        follower.see(*files[:n], now=n * -100.0 + VANISHED_SECONDS)
        assert len(follower.records) == n


def test_an_emptied_directory_of_many_is_held_until_it_is_confirmed() -> None:
    follower = loaded(*"abcd")
    for now in (1.0, LATER):
        result = follower.see(now=now, empty=True)
    assert (result.removals, set(result.unconfirmed)) == ((), set("abcd"))


def loaded(*names: str) -> Follower:
    """A follower whose records were all loaded."""
    records = [Record(n, HERE, SPEC, AT, file=f"{n}.yaml", line=1, last_good=SPEC) for n in names]
    return Follower(*records)


def test_grace_restarts_after_a_pause_in_reading(follower: Follower) -> None:
    follower.see(B, now=1.0)
    follower.memory = follower.memory.resumed()
    assert follower.see(B, now=LATER).removals == ()
    follower.see(invalid("renamed.yaml"), now=LATER)
    follower.memory = follower.memory.resumed()
    assert set(follower.see(invalid("renamed.yaml"), now=2 * LATER).held) == {"b"}


def test_duplicate_names_are_found_without_the_labels_of_a_node() -> None:
    prod = replace(SPEC, node_selector=(Requirement("role", "In", ("prod",)),))
    test = replace(SPEC, node_selector=(Requirement("role", "In", ("test",)),))
    assert duplicates([file("a.yaml", ("x", prod)), file("b.yaml", ("x", test))]) == {}
    for one, other in ((SPEC, SPEC), (SPEC, prod), (prod, prod)):
        found = duplicates([file("a.yaml", ("x", one)), file("b.yaml", ("x", other))])
        assert found == {"x": "declared more than once: a.yaml:1, b.yaml:1"}


def test_the_records_are_not_changed() -> None:
    records = {"p/m": Record("p/m", HTTP, SPEC, AT)}
    before = dict(records)
    absorb(records, SourceState(), Snapshot(HERE, (file("a.yaml", ("a", SPEC)),)), 0.0, AT)
    assert records == before


class TestNodes:
    """Documents with node selectors."""

    MINE = replace(SPEC, node_selector=(Requirement("role", "In", ("prod",)),))
    OTHERS = replace(OTHER, node_selector=(Requirement("role", "NotIn", ("prod",)),))
    LABELS: ClassVar = {"role": "prod"}

    def see(self, *files: ManifestFile, **records: Record) -> Absorbed:
        return absorb(records, SourceState(), Snapshot(HERE, files), 0.0, AT, self.LABELS)

    def test_only_documents_that_select_this_node_become_records(self) -> None:
        seen = self.see(file("a.yaml", ("a", self.MINE), ("b", self.OTHERS), ("c", SPEC)))
        assert [r.name for r in seen.upserts] == ["a", "c"]
        assert list(seen.not_selected) == ["b"]
        assert seen.not_selected["b"].startswith("a.yaml:2: meant for nodes with role NotIn prod")

    def test_a_name_may_be_declared_twice_for_different_nodes(self) -> None:
        seen = self.see(file("a.yaml", ("a", self.MINE), ("a", self.OTHERS)))
        assert [r.spec for r in seen.upserts] == [self.MINE]
        assert (seen.flagged, seen.not_selected) == ({}, {})

    def test_a_record_that_moves_to_other_nodes_is_removed(self) -> None:
        record = Record("a", HERE, SPEC, AT, file="a.yaml", line=1)
        commit = Snapshot(HERE, (file("a.yaml", ("a", self.OTHERS)),), commit=Commit("1"))
        gone = absorb({"a": record}, SourceState(), commit, 0.0, AT, self.LABELS)
        assert gone.removals == ("a",)


class TestGuard:
    """Commits that would unload many records."""

    @staticmethod
    def records(count: int, **more: Any) -> dict[str, Record]:
        names = [f"r{i}" for i in range(count)]
        return {n: replace(Record(n, HERE, SPEC, AT, last_good=SPEC), **more) for n in names}

    @staticmethod
    def why(records: dict[str, Record], *names: str, spec: LoadSpec = SPEC) -> str | None:
        snapshot = Snapshot(HERE, (file("a.yaml", *((n, spec) for n in names)),))
        return guard(records, HERE, select(snapshot, {}))

    def test_more_than_half_of_four_is_held(self) -> None:
        assert self.why(self.records(4), "r0") == (
            "it would unload 3 of 4 loaded records: r1, r2, r3"
        )
        assert self.why(self.records(4), "r0", "r1") is None
        assert self.why(self.records(5), "r0", "r1") is not None

    def test_fewer_than_four_are_not_guarded(self) -> None:
        assert self.why(self.records(3)) is None

    def test_newly_suspended_records_count(self) -> None:
        suspended = replace(SPEC, suspend=True)
        assert self.why(self.records(4), "r0", "r1", "r2", spec=suspended) is not None

    def test_records_that_were_never_loaded_do_not_count(self) -> None:
        assert self.why(self.records(4, last_good=None)) is None
        assert self.why(self.records(4, spec=replace(SPEC, suspend=True))) is None
        assert self.why(self.records(4, owner="git:elsewhere")) is None
