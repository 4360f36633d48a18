"""Incremental comparison of snapshots saves work and does not change the outcome."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core import absorb as absorbing
from reconciler.core.absorb import COMPARISONS, Absorbed, SourceState, absorb
from reconciler.core.manifest import Diagnostic, SourceLocation
from reconciler.core.records import HTTP, LoadSpec, Record
from reconciler.core.selector import Requirement
from reconciler.core.snapshot import Commit, Declared, ManifestFile, Snapshot

AT = datetime(2026, 1, 1, tzinfo=UTC)
HERE, ELSEWHERE = "directory:/m", "directory:/other"
LABELS = {"role": "prod"}
NAMES = tuple("abcdef")
PATHS = ("1.yaml", "2.yaml", "sub/1.yaml", "sub/2.yaml")
SPECS = (
    LoadSpec("p/m"),
    LoadSpec("p/n"),
    LoadSpec("p/m", node_selector=(Requirement("role", "In", ("prod",)),)),
    LoadSpec("p/m", node_selector=(Requirement("role", "NotIn", ("prod",)),)),
)

documents = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(SPECS)), max_size=3)
contents = st.one_of(documents, st.sampled_from(["invalid", "cut off", "foreign"]))
snapshots = st.fixed_dictionaries(
    {
        "files": st.dictionaries(st.sampled_from(PATHS), contents),
        "twice": st.booleans(),
        "kind": st.sampled_from(["directory"] * 4 + ["commit", "unreadable", "empty folder"]),
        "seconds": st.sampled_from([0.0, 1.0, 3.0, 40.0]),
        "confirmed": st.frozensets(st.sampled_from(NAMES), max_size=2),
        "limit": st.sampled_from([1, 2, None]),
    }
)
meanwhile = st.tuples(
    st.sampled_from(["http", "elsewhere", "removed", "loaded"]), st.sampled_from(NAMES)
)
steps = st.lists(st.tuples(snapshots, st.lists(meanwhile, max_size=2)), max_size=8)

Content = list[tuple[str, LoadSpec]] | str


class Files:
    """Files as a walk keeps them: an unchanged file is the same object."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Content, ManifestFile]] = {}

    def snapshot(self, wanted: dict[str, Any]) -> Snapshot:
        """The snapshot of a source."""
        if wanted["kind"] == "unreadable":
            return Snapshot(HERE, unreadable="gone")
        self._known = {p: self._file(p, content) for p, content in wanted["files"].items()}
        files = [self._known[path][1] for path in sorted(self._known)]
        if wanted["twice"]:
            files += files[:1]
        folders = ("sub/",) if wanted["kind"] == "empty folder" else ()
        commit = Commit("1", "1") if wanted["kind"] == "commit" else None
        return Snapshot(HERE, tuple(files), empty=not files, empty_folders=folders, commit=commit)

    def _file(self, path: str, content: Content) -> tuple[Content, ManifestFile]:
        known = self._known.get(path)
        if known is not None and known[0] == content:
            return known
        if content == "invalid":
            return content, ManifestFile(path, flaws=(Diagnostic("bad", SourceLocation(1, 1)),))
        if content == "foreign":
            return content, ManifestFile(path, ignored=("line 1: is another program's",))
        if isinstance(content, str):
            return content, ManifestFile(path, open_end=True)
        declared = (Declared(name, spec, line) for line, (name, spec) in enumerate(content, 1))
        return content, ManifestFile(path, tuple(declared))


def change(records: dict[str, Record], kind: str, name: str) -> None:
    """A change made by others between two snapshots."""
    if kind == "removed":
        records.pop(name, None)
    elif kind == "loaded" and name in records:
        records[name] = replace(records[name], last_good=records[name].spec)
    elif kind in ("http", "elsewhere"):
        owner = HTTP if kind == "http" else ELSEWHERE
        records[name] = Record(name, owner, SPECS[1], AT)


def follow(
    records: dict[str, Record],
    memory: SourceState,
    snapshot: Snapshot,
    now: float,
    wanted: Any,
    touched: frozenset[str] | None,
) -> Absorbed:
    """Absorb a snapshot until there is no more of it, as the feed does."""
    confirmed, limit = wanted["confirmed"], wanted["limit"]
    while True:
        before = dict(records)
        result = absorb(records, memory, snapshot, now, AT, LABELS, confirmed, limit, touched)
        assert records == before
        records |= {record.name: record for record in result.upserts}
        for name in result.removals:
            del records[name]
        if not result.more:
            return result
        assert limit is not None
        assert len(result.upserts) <= limit
        assert not result.removals
        memory = result.memory
        touched = None if touched is None else frozenset(r.name for r in result.upserts)


@settings(max_examples=80, derandomize=True, deadline=None)
@given(steps)
def test_incremental_absorption_has_the_outcome_of_full_absorption(
    sequence: list[tuple[dict[str, Any], list[tuple[str, str]]]],
) -> None:
    files = Files()
    mine: dict[str, Record] = {}
    theirs: dict[str, Record] = {}
    memory, plain = SourceState(), SourceState()
    touched: set[str] = set()
    now = 0.0
    for wanted, changes in sequence:
        for kind, name in changes:
            change(mine, kind, name)
            change(theirs, kind, name)
        now += wanted["seconds"]
        snapshot = files.snapshot(wanted)
        touched |= {name for _, name in changes}
        with mock.patch.object(absorbing, "COMPARISONS", 1):
            result = follow(mine, memory, snapshot, now, wanted, frozenset(touched))
        if result.memory is not memory:  # else nothing was compared
            touched = {record.name for record in result.upserts} | {*result.removals}
        whole = follow(theirs, plain, snapshot, now, {**wanted, "limit": None}, None)
        assert mine == theirs
        assert sorted(result.removals) == sorted(whole.removals)
        assert replace(_plain(result), upserts=(), removals=()) == replace(
            _plain(whole), upserts=(), removals=()
        )
        memory, plain = result.memory, replace(whole.memory, compared=None)


def _plain(result: Absorbed) -> Absorbed:
    return replace(result, memory=replace(result.memory, compared=None))


def test_only_differences_are_compared() -> None:
    compared = []

    class ProbeState(dict[str, Record]):
        def get(self, name: str, default: Any = None) -> Any:
            compared.append(name)
            return super().get(name, default)

    files = [
        ManifestFile(f"{n}.yaml", (Declared(f"n{n}", LoadSpec("p/m"), 1),)) for n in range(100)
    ]
    snapshot = Snapshot(HERE, tuple(files))
    records = ProbeState()
    memory, pieces = SourceState(), 0
    while (result := absorb(records, memory, snapshot, 0.0, AT, limit=10, touched=())).more:
        records |= {r.name: r for r in result.upserts}
        memory, pieces = result.memory, pieces + 1
    assert (len(records), pieces) == (100, 10)
    assert len(compared) <= 2 * 100 + pieces * 10
    compared.clear()
    files[7] = ManifestFile("7.yaml", (Declared("n7", LoadSpec("p/n"), 1),))
    changed = absorb(records, result.memory, Snapshot(HERE, tuple(files)), 0.0, AT, touched=())
    assert ([r.name for r in changed.upserts], compared) == (["n7"], ["n7"])


def test_records_that_agree_are_compared_in_batches() -> None:
    """Regression: after a restart, 10,000 of them were compared in one step of the event loop."""
    files = tuple(
        ManifestFile(f"{n}.yaml", (Declared(f"n{n}", LoadSpec("p/m"), 1),)) for n in range(100)
    )
    snapshot = Snapshot(HERE, files)
    compared: list[str] = []

    class Records(dict[str, Record]):
        def get(self, name: str, default: Any = None) -> Any:
            compared.append(name)
            return super().get(name, default)

    records = Records({r.name: r for r in absorb({}, SourceState(), snapshot, 0.0, AT).upserts})
    memory, pieces = SourceState(), []
    while (result := absorb(records, memory, snapshot, 0.0, AT, limit=1, touched=())).more:
        memory = result.memory
        pieces.append(len(compared))
        compared.clear()
    assert (result.upserts, pieces, len(compared)) == ((), [COMPARISONS] * 4, COMPARISONS)


def test_upserts_that_were_not_applied_are_retried() -> None:
    file = ManifestFile("a.yaml", (Declared("a", LoadSpec("p/m"), 1),))
    snapshot = Snapshot(HERE, (file,))
    result = absorb({}, SourceState(), snapshot, 0.0, AT)
    for _ in range(2):
        result = absorb({}, result.memory, snapshot, 0.0, AT)
        assert [record.name for record in result.upserts] == ["a"]
