"""Failures of git and of repositories: networks, locks, broken objects, processes left behind."""

import asyncio
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest

from reconciler.core.snapshot import Commit
from reconciler.sources.git import command
from reconciler.sources.git import tree as git_tree
from tests.repositories import Cut, Origin, git_daemon
from tests.sources.test_git import AT, names, node


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
