"""Follows a folder of a git repository, commit by commit.

Each commit is read, checked and applied as a whole or not at all. The applied commit is kept in the
local repository as `refs/reconciler/applied`, so that a restart needs no network and older commits
are recognized.
"""

import hashlib
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reconciler.core.snapshot import Commit, ManifestFile, Snapshot
from reconciler.sources.git.command import GitError, Remote, Repository
from reconciler.sources.git.tree import RefusedError, read
from reconciler.sources.git.trust import verify
from reconciler.sources.looks import RefreshRequests

APPLIED = "refs/reconciler/applied"

JITTER = 0.1
"""Fraction of the interval by which polls vary, so that a fleet does not poll in step."""

SHOWN_FLAWS = 3


NO_MANIFEST = "; if it is not a manifest, name the folder that holds the manifests with --git-path"


def _is_foreign(file: ManifestFile) -> bool:
    """True if no part of a file identifies it as a manifest of this product."""
    keys = {flaw.key for flaw in file.flaws}
    return {"apiVersion", "kind"} <= keys or "" in keys


@dataclass(frozen=True)
class Following:
    """The branch or tag to follow, and the requirements on its commits."""

    remote: Remote
    ref: str = "main"
    folder: str = ""
    """Without slashes at either end; empty for the whole repository."""
    interval: float = 60.0
    """Seconds between polls."""
    signers: Path | None = None
    """ssh's allowed signers, or a GPG keyring; None if signatures are not checked."""
    allow_rewind: bool = False
    """Allow commits that do not descend from the applied one."""

    @property
    def name(self) -> str:
        """Owner of its records, in the notation of kustomize and terraform for remote folders."""
        folder = f"//{self.folder}" if self.folder else ""
        return f"git:{self.remote.url}{folder}?ref={self.ref}"


class GitSource:
    """Follows a branch or tag."""

    def __init__(
        self,
        following: Following,
        state: Path,
        utc: Callable[[], datetime],
        seconds: float | None = None,
    ) -> None:
        """The local repository is created under `state`; `seconds` limits each git command."""
        self.name = following.name
        self._following = following
        directory = state / "git" / hashlib.sha256(self.name.encode()).hexdigest()[:16]
        more = {} if seconds is None else {"seconds": seconds}
        self._repository = Repository(directory, following.remote, **more)
        self._utc = utc
        self._looks = RefreshRequests()
        self._candidate: tuple[str, tuple[ManifestFile, ...]] | None = None
        """A valid commit; the consumer of the snapshots decides whether it is applied."""
        self._accepted: str | None = None
        self._applied: str | None = None
        self._noted: str | None = None
        """Commit recorded as applied in the local repository."""
        self._files: tuple[ManifestFile, ...] = ()
        self._synced_at: datetime | None = None

    async def sync(self) -> None:
        """Fetch now; return when the result has been applied."""
        await self._looks.ask()

    def accept(self, commit: str) -> None:
        """Record that a yielded commit was applied."""
        self._accepted = commit

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Yield the last applied state, then a snapshot at each poll."""
        if (known := await self._known()) is not None:
            yield known
        while True:
            with self._looks.look():
                await self._note_accepted()  # a commit confirmed meanwhile
                yield await self._look()
                await self._note_accepted()
            jitter = 1 + random.uniform(-JITTER, JITTER)  # noqa: S311  no secret
            await self._looks.wait(self._following.interval * jitter)

    async def _known(self) -> Snapshot | None:
        """Load the state applied before the daemon started, without network access."""
        try:
            await self._repository.open()
            self._applied = self._noted = await self._repository.commit(APPLIED)
            self._files = await read(self._repository, self._applied, self._following.folder)
        except (GitError, RefusedError, OSError):
            return None
        return self._snapshot()

    async def _look(self) -> Snapshot:
        """Fetch the latest commit and check it."""
        attempted = None
        try:
            if await self._repository.open():
                self._noted = None
            whole = self._applied is not None
            attempted = await self._repository.fetch(self._following.ref, whole=whole)
            self._synced_at = self._utc()
            if self._following.signers is not None:  # the allowed signers may have changed
                await verify(self._repository, attempted, self._following.signers)
            if attempted == self._applied:
                return self._snapshot(attempted)
            files = await self._judged(attempted)
        except (GitError, RefusedError, OSError) as error:
            return self._snapshot(attempted, str(error))
        commit = Commit(attempted, attempted, None, self._synced_at)
        self._candidate = (attempted, files)
        return Snapshot(self.name, files, commit=commit)

    async def _judged(self, commit: str) -> tuple[ManifestFile, ...]:
        """Read and check the files of a commit. Raises `RefusedError` and `GitError`."""
        if self._applied is not None and not self._following.allow_rewind:
            await self._check_forward(commit)
        files = await read(self._repository, commit, self._following.folder)
        flaws = [
            f"{f.path}:{x.position.line}:{x.position.column}: {x.message}"
            for f in files
            for x in f.flaws
        ]
        if flaws:
            more = len(flaws) - SHOWN_FLAWS
            words = "; ".join(flaws[:SHOWN_FLAWS]) + (f"; and {more} more" * (more > 0))
            raise RefusedError(words + (NO_MANIFEST if any(map(_is_foreign, files)) else ""))
        return files

    async def _check_forward(self, commit: str) -> None:
        """Check that a commit descends from the applied one. Raises `RefusedError`."""
        try:
            await self._repository.git("merge-base", "--is-ancestor", str(self._applied), commit)
        except GitError:
            raise RefusedError(
                f"it does not descend from the applied commit {str(self._applied)[:12]}; to follow "
                "an older commit or rewritten history, use --git-allow-rewind"
            ) from None

    async def _note_accepted(self) -> None:
        """Record the applied commit, for the next start and for the check of descent."""
        if self._candidate is not None and self._candidate[0] == self._accepted:
            (self._applied, self._files), self._candidate = self._candidate, None
        if self._applied is None or self._noted == self._applied:
            return
        with suppress(GitError):  # a failure here makes the next fetch fail as well
            await self._repository.git("update-ref", APPLIED, self._applied)
            self._noted = self._applied

    def _snapshot(self, attempted: str | None = None, problem: str | None = None) -> Snapshot:
        """Snapshot of the applied commit, or an unreadable one if there is none yet."""
        commit = Commit(self._applied, attempted, problem, self._synced_at)
        unreadable = problem if self._applied is None else None
        return Snapshot(self.name, self._files, unreadable, commit=commit)
