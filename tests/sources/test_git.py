"""Snapshots of a repository, made with the real git."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.snapshot import Commit, ManifestFile, Snapshot, read_file
from reconciler.sources.git import Following, GitSource
from reconciler.sources.git import tree as git_tree
from reconciler.sources.git.command import Remote
from reconciler.sources.looks import RefreshRequests
from tests.repositories import Origin

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Node:
    """Follows a repository as the daemon does and applies every snapshot that it may."""

    def __init__(self, source: GitSource) -> None:
        self.source = source
        self.snapshots = source.snapshots()

    async def look(self) -> Snapshot:
        """The snapshot of the next poll."""
        self.source._looks._event.set()
        snapshot = await anext(self.snapshots)
        if snapshot.commit is not None and snapshot.commit.applied is not None:
            self.source.accept(snapshot.commit.applied)
        return snapshot

    async def commit(self) -> Commit:
        commit = (await self.look()).commit
        assert commit is not None
        return commit

    async def refusal(self) -> str:
        """Error that prevents following the newest commit."""
        commit = await self.commit()
        assert commit.problem is not None
        return commit.problem


@asynccontextmanager
async def node(
    state: Path, url: str, *, seconds: float | None = None, **more: Any
) -> AsyncIterator[Node]:
    following = Following(Remote(url), folder="fleet", **more)
    node = Node(GitSource(following, state, lambda: AT, seconds))
    try:
        yield node
    finally:
        await node.snapshots.aclose()


def names(snapshot: Snapshot) -> list[str]:
    return [d.name for f in snapshot.files for d in f.declared]


async def test_commits_are_followed(origin: Origin, tmp_path: Path) -> None:
    first = origin.declare("a", "b")
    async with node(tmp_path, origin.url) as mac:
        snapshot = await mac.look()
        assert names(snapshot) == ["a", "b"]
        assert [f.path for f in snapshot.files] == ["fleet/a.yaml", "fleet/b.yaml"]
        assert snapshot.commit == Commit(first, first, None, AT)
        second = origin.declare("a", "c")
        origin.commit()
        third = origin.declare("c")
        assert names(await mac.look()) == ["c"]
        assert (await mac.commit()).applied == third != second


async def test_only_files_of_the_folder_are_fetched(origin: Origin, tmp_path: Path) -> None:
    origin.write("weights.bin", "0" * 100_000)
    origin.write("fleet/notes.md", "nothing")
    origin.write("fleet/.github/workflow.yaml", "[")
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        assert names(await mac.look()) == ["a"]
        output = await mac.source._repository.git(
            "rev-list", "--objects", "--all", "--missing=print"
        )
        missing = [line for line in output.decode().splitlines() if line.startswith("?")]
        assert len(missing) == 3  # weights, notes and the workflow
        assert list((mac.source._repository.directory / "hooks").glob("*")) == []


async def test_all_files_are_fetched_without_partial_clone(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.version")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "0")
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        assert names(await mac.look()) == ["a"]
        origin.declare("b")
        origin.declare("a", "b", context=32)
        snapshot = await mac.look()
        assert (snapshot.problem, names(snapshot)) == (None, ["a", "b"])
        origin.declare("c")
        assert names(await mac.look()) == ["c"]


async def test_the_history_is_not_fetched(origin: Origin, tmp_path: Path) -> None:
    for name in "abcd":
        origin.declare(name)
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        count = await mac.source._repository.git("rev-list", "--count", "refs/reconciler/tip")
        assert count == b"1\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: o.write("fleet/b.yaml", "a: ["), "fleet/b.yaml:2:1: not valid YAML"),
        (
            lambda o: (o.root / "fleet" / "b.yaml").symlink_to("/etc/passwd"),
            "fleet/b.yaml is a link; links are refused",
        ),
        (lambda o: o.write("fleet/b.yaml", "#" * 1_100_000), "more than"),
        (lambda o: (o.root / "fleet").rename(o.root / "herd"), "the folder fleet does not exist"),
    ],
)
async def test_a_commit_with_any_error_is_not_followed(
    origin: Origin, tmp_path: Path, change: Any, words: str
) -> None:
    good = origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        change(origin)
        bad = origin.commit()
        snapshot = await mac.look()
        assert names(snapshot) == ["a"]
        assert snapshot.commit is not None
        assert (snapshot.commit.applied, snapshot.commit.attempted) == (good, bad)
        assert words in str(snapshot.problem)
        origin.git("revert", "--no-edit", "HEAD")
        mended = await mac.look()
        assert (mended.problem, names(mended)) == (None, ["a"])


async def test_links_that_are_neither_manifests_nor_folders_are_ignored(
    origin: Origin, tmp_path: Path
) -> None:
    for name, target in {
        "README": "notes.md",
        "nowhere": "not/there",
        "outside": "/etc",
        "above": "../../..",
        ".hidden.yaml": "/etc/passwd",
    }.items():
        (origin.root / "fleet").mkdir(exist_ok=True)
        (origin.root / "fleet" / name).symlink_to(target)
    origin.write("fleet/notes.md", "nothing")
    origin.write("other/x.yaml", "[")
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        snapshot = await mac.look()
        assert (snapshot.problem, names(snapshot)) == (None, ["a"])
        for target in ("../other", ".", ".."):
            (origin.root / "fleet" / "team").symlink_to(target)
            origin.commit()
            words = "fleet/team is a link to a folder; links are refused"
            assert await mac.refusal() == words
            (origin.root / "fleet" / "team").unlink()


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("fleet/x.yaml/a.yaml", "", "fleet/x.yaml:1:1: is a directory, not a file"),
        ("fleet/b\n.yaml", "", "fleet/b\\n.yaml:1:1: its name has control characters"),
        ("fleet/b.yaml", "{apiVersion: reconciler/v2, kind: X}", "apiVersion must be"),
        ("fleet/b.yaml", "{apiVersion: x/v1, kind: ModelInstance}", "apiVersion must be"),
        (
            "fleet/b.yaml",
            "site_name: docs",
            "that holds the manifests with --git-path",
        ),
        ("fleet/b.yaml", "- a\n- b\n", "that holds the manifests with --git-path"),
    ],
)
async def test_errors_of_a_watched_directory_are_refused_too(
    origin: Origin, tmp_path: Path, path: str, text: str, words: str
) -> None:
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        origin.write(path, text)
        origin.commit()
        assert words in await mac.refusal()
        assert names(await mac.look()) == ["a"]


async def test_manifests_are_parsed_off_the_event_loop(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def read(path: str, data: bytes) -> ManifestFile:
        threads.append(threading.current_thread())
        return read_file(path, data)

    monkeypatch.setattr(git_tree, "read_file", read)
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        assert names(await mac.look()) == ["a"]
    assert threads
    assert threading.main_thread() not in threads


async def test_a_branch_takes_precedence_over_a_tag_of_its_name(
    origin: Origin, tmp_path: Path
) -> None:
    origin.declare("a")
    origin.git("tag", "main")
    origin.git("tag", "--annotate", "v1", "--message=v1")
    newest = origin.declare("b")
    async with node(tmp_path, origin.url) as mac:
        assert ((await mac.commit()).applied, names(await mac.look())) == (newest, ["b"])
    for ref, found in {"refs/tags/main": ["a"], "v1": ["a"], "HEAD": ["b"]}.items():
        async with node(tmp_path, origin.url, ref=ref) as mac:
            assert names(await mac.look()) == found


async def test_a_sha_256_repository_is_followed(tmp_path: Path) -> None:
    origin = Origin(tmp_path / "origin", "--object-format=sha256")
    first = origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        assert ((await mac.commit()).applied, len(first)) == (first, 64)
        origin.declare("a", "b")
        assert names(await mac.look()) == ["a", "b"]
        await mac.look()
    async with node(tmp_path, origin.url) as restarted:
        assert names(await restarted.look()) == ["a", "b"]


async def test_an_old_commit_cannot_be_replayed(origin: Origin, tmp_path: Path) -> None:
    old = origin.declare("a")
    new = origin.declare("b")
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        origin.git("reset", "--quiet", "--hard", old)
        snapshot = await mac.look()
        assert names(snapshot) == ["b"]
        assert f"does not descend from the applied commit {new[:12]}" in str(snapshot.problem)
    async with node(tmp_path, origin.url) as restarted:
        assert names(await restarted.look()) == ["b"]
        assert "does not descend" in await restarted.refusal()
    async with node(tmp_path, origin.url, allow_rewind=True) as mac:
        assert names(await mac.look()) == ["b"]
        assert names(await mac.look()) == ["a"]


async def test_a_rewritten_history_is_not_followed(origin: Origin, tmp_path: Path) -> None:
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        origin.git("checkout", "--quiet", "--orphan", "other")
        origin.declare("b")
        origin.git("branch", "--force", "main", "other")
        assert "does not descend" in await mac.refusal()
        assert names(await mac.look()) == ["a"]


async def test_poll_intervals_are_jittered(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.declare("a")
    waits = []

    async def wait(_looks: RefreshRequests, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(RefreshRequests, "wait", wait)
    async with node(tmp_path, origin.url, interval=100.0) as mac:
        for _ in range(4):
            await mac.look()
    assert len(set(waits)) == 3
    assert all(90 <= seconds <= 110 for seconds in waits)


async def test_an_unread_repository_does_not_count_as_empty(tmp_path: Path) -> None:
    async with node(tmp_path, f"file://{tmp_path}/nowhere") as mac:
        snapshot = await mac.look()
        assert "does not appear to be a git repository" in str(snapshot.unreadable)


async def test_filters_and_submodules_of_a_repository_do_not_run(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "filter.trap.smudge")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"touch {trap}")
    origin.write(".gitattributes", "*.yaml filter=trap\n")
    origin.write(".gitmodules", f'[submodule "x"]\n\tpath = x\n\turl = ext::touch {trap}\n')
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        assert names(await mac.look()) == ["a"]
    assert not trap.exists()
    async with node(tmp_path / "other", f"ext::touch {trap}") as mac:
        assert "transport 'ext' not allowed" in await mac.refusal()
    assert not trap.exists()
