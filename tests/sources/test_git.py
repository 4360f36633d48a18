"""Snapshots of a repository, made with the real git."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.core.snapshot import Commit, ManifestFile, Snapshot, read_file
from reconciler.sources.git import Following, GitSource, command
from reconciler.sources.git import tree as git_tree
from reconciler.sources.git.command import Remote
from reconciler.sources.looks import RefreshRequests
from tests.repositories import Cut, Origin, Signer, git_daemon

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path / "origin")


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


async def test_exponentially_nested_trees_are_refused(origin: Origin, tmp_path: Path) -> None:
    blob = origin.git("hash-object", "-w", "--stdin")
    tree = origin.make_tree(*(f"100644 blob {blob}\t{n}.yaml" for n in range(10)))
    for _ in range(8):
        tree = origin.make_tree(*(f"040000 tree {tree}\t{n}" for n in range(10)))
    tree = origin.make_tree(f"040000 tree {tree}\tfleet")
    origin.git("update-ref", "refs/heads/main", origin.git("commit-tree", "-m", "bomb", tree))
    async with node(tmp_path, origin.url) as mac:
        assert "git ls-tree: more than 100000000 bytes" in await mac.refusal()


async def test_a_tree_has_a_bounded_number_of_entries(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_tree, "MAX_ENTRIES", 3)
    origin.write("fleet/notes.txt", "")
    origin.declare("a", "b")
    async with node(tmp_path, origin.url) as mac:
        assert await mac.commit() == Commit(*(origin.git("rev-parse", "HEAD"),) * 2, None, AT)
        origin.declare("a", "b", "c")
        assert await mac.refusal() == "it has more than 3 entries"


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


async def test_a_shallow_origin_that_is_fetched_again_does_not_hang_git(
    origin: Origin, tmp_path: Path
) -> None:
    """Its new commit does not lead back to the old one. Without precautions, git searches for the
    commits between them with endless processes.
    """
    origin.declare("a")
    shallow = Origin(tmp_path / "shallow")
    shallow.git("fetch", "--quiet", "--depth=1", origin.url, "main")
    shallow.git("reset", "--quiet", "--hard", "FETCH_HEAD")
    async with node(tmp_path, shallow.url, seconds=20.0) as mac:
        first = (await mac.commit()).applied
        for name in "bcd":
            origin.declare(name)
        shallow.git("fetch", "--quiet", "--depth=1", origin.url, "main")
        shallow.git("reset", "--quiet", "--hard", "FETCH_HEAD")
        assert f"does not descend from the applied commit {str(first)[:12]}" in await mac.refusal()
        assert names(await mac.look()) == ["a"]
    async with node(tmp_path, shallow.url, seconds=20.0, allow_rewind=True) as mac:
        await mac.look()
        assert names(await mac.look()) == ["d"]


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


async def test_records_are_kept_while_the_server_is_unreachable(
    origin: Origin, tmp_path: Path
) -> None:
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        origin.git("checkout", "--quiet", "-b", "other")
        origin.git("branch", "--delete", "--force", "main")
        assert "couldn't find remote ref main" in await mac.refusal()
        origin.root.rename(tmp_path / "gone")
        assert "does not appear to be a git repository" in await mac.refusal()
        assert names(await mac.look()) == ["a"]
    async with node(tmp_path, origin.url) as restarted:
        assert names(await restarted.look()) == ["a"]
        assert "does not appear to be" in await restarted.refusal()


async def test_a_missing_git_is_reported_with_the_fix(
    origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.declare("a")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    async with node(tmp_path, origin.url) as mac:
        assert "xcode-select --install" in await mac.refusal()


async def test_an_incomplete_commit_is_not_followed(origin: Origin, tmp_path: Path) -> None:
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        origin.declare("a", "b")
        blob = origin.git("rev-parse", "HEAD:fleet/b.yaml")
        lost = origin.root / ".git" / "objects" / blob[:2] / blob[2:]
        kept = lost.read_bytes()
        lost.unlink()
        snapshot = await mac.look()
        assert snapshot.problem is not None
        assert names(snapshot) == ["a"]
        lost.write_bytes(kept)
        assert names(await mac.look()) == ["a", "b"]


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


async def test_locks_of_a_killed_git_are_ignored(origin: Origin, tmp_path: Path) -> None:
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        for lock in ("shallow.lock", "refs/reconciler/tip.lock", "packed-refs.lock"):
            (mac.source._repository.directory / lock).touch()
        origin.declare("b")
        assert names(await mac.look()) == ["b"]


async def test_a_broken_repository_is_recreated(origin: Origin, tmp_path: Path) -> None:
    origin.declare("a")
    async with node(tmp_path, origin.url) as mac:
        await mac.look()
        (mac.source._repository.directory / "HEAD").write_text("nonsense", "utf-8")
        origin.declare("b")
        assert names(await mac.look()) == ["b"]


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


class TestSignatures:
    """Following with a file of allowed signers."""

    async def test_only_commits_signed_by_an_allowed_key_are_followed(
        self, origin: Origin, tmp_path: Path
    ) -> None:
        mine, other = Signer(tmp_path, "mine"), Signer(tmp_path, "other")
        allowed = tmp_path / "allowed"
        allowed.write_text(mine.line, "utf-8")
        origin.declare("a")
        async with node(tmp_path, origin.url, signers=allowed) as mac:
            assert "it is not signed" in await mac.refusal()
            origin.write("fleet/a.yaml", "{apiVersion: other/v1}")
            origin.commit(*other.options)
            assert "No principal matched" in await mac.refusal()
            signed = origin.commit(*mine.options)
            assert (await mac.commit()).applied == signed
            origin.git("reset", "--quiet", "--hard", "HEAD~1")
            origin.declare("b")
            snapshot = await mac.look()
            assert (snapshot.commit is not None, names(snapshot)) == (True, [])
            assert "it is not signed" in str(snapshot.problem)

    async def test_a_commit_of_a_removed_key_is_reported_and_stays_applied(
        self, origin: Origin, tmp_path: Path
    ) -> None:
        mine, other = Signer(tmp_path, "mine"), Signer(tmp_path, "other")
        allowed = tmp_path / "allowed"
        allowed.write_text(mine.line, "utf-8")
        origin.declare("a")
        signed = origin.commit(*mine.options)
        async with node(tmp_path, origin.url, signers=allowed) as mac:
            assert (await mac.commit()).applied == signed
            allowed.write_text(other.line, "utf-8")
            snapshot = await mac.look()
            assert "No principal matched" in str(snapshot.problem)
            assert names(snapshot) == ["a"]  # reported, while the loaded records stay
            allowed.unlink()
            assert "cannot read" in await mac.refusal()

    async def test_an_unreadable_signers_file_does_not_block(
        self, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("reconciler.sources.git.trust.SECONDS", 0.05)
        allowed = tmp_path / "allowed"
        os.mkfifo(allowed)
        origin.declare("a")
        async with node(tmp_path, origin.url, signers=allowed) as mac:
            assert "no answer within 0.05 s" in await mac.refusal()
        # The reading thread may continue; nothing waits for it. End it.
        os.close(os.open(allowed, os.O_RDWR))

    async def test_commits_are_verified_with_a_gpg_keyring(
        self, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        home = tmp_path / "gnupg"
        home.mkdir(mode=0o700)
        monkeypatch.setenv("GNUPGHOME", str(home))
        make = ["--batch", "--quiet", "--passphrase", "", "--quick-gen-key"]
        gpg("gpg", *make, "author@example.com", "ed25519", "sign", "0")
        gpg("gpg", *make, "other@example.com", "ed25519", "sign", "0")
        ring, armored = tmp_path / "ring.gpg", tmp_path / "ring.asc"
        gpg("gpg", "--quiet", "--output", str(ring), "--export", "author@example.com")
        gpg("gpg", "--quiet", "-a", "--output", str(armored), "--export", "author@example.com")
        (origin.root / "fleet").mkdir()
        signed = origin.declare("a")
        try:
            options = ("-c", "user.signingKey=author@example.com", "-c", "commit.gpgSign=true")
            signed = origin.commit(*options)
            for keys in (ring, armored):
                async with node(tmp_path / keys.suffix, origin.url, signers=keys) as mac:
                    assert (await mac.commit()).applied == signed
            origin.commit("-c", "user.signingKey=other@example.com", "-c", "commit.gpgSign=true")
            async with node(tmp_path / ring.suffix, origin.url, signers=ring) as mac:
                await mac.look()
                assert "No public key" in await mac.refusal()
            # With a file of ssh signers, keys of the user's own keyring do not count.
            allowed = tmp_path / "allowed"
            allowed.write_text(Signer(tmp_path, "mine").line, "utf-8")
            async with node(tmp_path / "ssh", origin.url, signers=allowed) as mac:
                assert "not signed by a key in" in await mac.refusal()
        finally:
            gpg("gpgconf", "--kill", "all")


def gpg(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


async def test_a_fetch_recovers_after_the_network_is_cut(origin: Origin, tmp_path: Path) -> None:
    origin.declare("a")
    with git_daemon(tmp_path) as url:
        host, port = url.removeprefix("git://").split(":")
        cut = Cut((host, int(port)))
        address = f"git://127.0.0.1:{cut.port}/origin"
        async with node(tmp_path, address, seconds=2.0) as mac:
            assert names(await mac.look()) == ["a"]
            origin.declare(*(f"n{i}" for i in range(50)))
            cut.bytes_left = 400
            assert "no answer within 2 s" in await mac.refusal()
            assert names(await mac.look()) == ["a"]
            cut.bytes_left = 10**9
            assert len(names(await mac.look())) == 50
        cut.close()


class TestProcesses:
    """Helpers that git starts, such as git-remote-https or ssh, end with it."""

    @pytest.fixture
    def helper(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """FIFO with the PID of a helper whose git never exits."""
        fifo, git = tmp_path / "fifo", tmp_path / "bin" / "git"
        os.mkfifo(fifo)
        git.parent.mkdir()
        git.write_text(f"#!/bin/sh\nsleep 600 &\necho $! > {fifo}\nwait\n", "utf-8")
        git.chmod(0o755)
        monkeypatch.setenv("PATH", f"{git.parent}:{os.environ['PATH']}")
        return fifo

    async def test_helpers_end_with_a_command_that_timed_out(
        self, helper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        children: list[psutil.Process] = []

        async def give_up(*_: Any) -> None:
            children.append(psutil.Process(int(await asyncio.to_thread(helper.read_text))))
            raise TimeoutError

        hand, held = os.pipe()
        monkeypatch.setattr(command, "_leash", lambda: nullcontext(hand))  # else it ends them, too
        monkeypatch.setattr(command, "_talk", give_up)
        with pytest.raises(command.GitError, match="no answer within"):
            await command.Repository(tmp_path, command.Remote("file:///nowhere")).git("fetch")
        try:
            await asyncio.to_thread(children[0].wait, 10)
        finally:
            os.close(hand)
            os.close(held)

    async def test_a_helper_that_detached_itself_does_not_block_the_source(
        self, helper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A shared connection of ssh outlives git and holds its pipes; it is not ours to end."""
        code = f"import os, time; os.setsid(); open({str(helper)!r}, 'w').write(str(os.getpid()))"
        git = tmp_path / "bin" / "git"
        git.write_text(
            f'#!/bin/sh\n{sys.executable} -c "{code}; time.sleep(600)" &\nwait\n', "utf-8"
        )
        children: list[psutil.Process] = []

        async def give_up(*_: Any) -> None:
            children.append(psutil.Process(int(await asyncio.to_thread(helper.read_text))))
            raise TimeoutError

        monkeypatch.setattr(command, "_talk", give_up)
        repository = command.Repository(tmp_path, command.Remote("file:///nowhere"))
        try:
            async with asyncio.timeout(30):  # it waited until the helper had ended
                with pytest.raises(command.GitError, match="no answer within"):
                    await repository.git("fetch")
            assert children[0].is_running()
        finally:
            children[0].kill()

    async def test_helpers_end_when_the_daemon_is_killed(self, helper: Path) -> None:
        asks = (
            "import asyncio, pathlib; from reconciler.sources.git.command import *; "
            "asyncio.run(Repository(pathlib.Path(), Remote('file:///nowhere')).git('fetch'))"
        )
        daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", asks)
        child = psutil.Process(int(await asyncio.to_thread(helper.read_text)))
        daemon.kill()
        await daemon.wait()
        await asyncio.to_thread(child.wait, 10)
