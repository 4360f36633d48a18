"""A folder of a git repository, followed commit by commit.

Each commit is read and judged as a whole, and taken up as a whole or not at all. What was taken up
is kept in the repository as `refs/reconciler/applied`, so that a restart needs no network and an
older commit is known for one.
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
"""Share of the interval by which a poll may come early or late: a fleet must not ask in step."""

SHOWN_FLAWS = 3


NO_MANIFEST = "; if that is no manifest, name the folder that holds the manifests with --git-path"


def _is_foreign(file: ManifestFile) -> bool:
    """True if nothing in a file says that it is meant for us."""
    keys = {flaw.key for flaw in file.flaws}
    return {"apiVersion", "kind"} <= keys or "" in keys


@dataclass(frozen=True)
class Following:
    """What is followed, and what is asked of a commit."""

    remote: Remote
    ref: str = "main"
    folder: str = ""
    """Without a slash at either end; empty: all of the repository."""
    interval: float = 60.0
    """Seconds between polls."""
    signers: Path | None = None
    """ssh's allowed signers, or a GPG keyring; None: signatures do not matter."""
    allow_rewind: bool = False
    """Follow commits that do not descend from the one that is applied."""

    @property
    def name(self) -> str:
        """The owner of its records, as kustomize and terraform write a remote folder."""
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
        """Its repository is made under `state`; `seconds` limits each command of git's."""
        self.name = following.name
        self._following = following
        directory = state / "git" / hashlib.sha256(self.name.encode()).hexdigest()[:16]
        more = {} if seconds is None else {"seconds": seconds}
        self._repository = Repository(directory, following.remote, **more)
        self._utc = utc
        self._looks = RefreshRequests()
        self._candidate: tuple[str, tuple[ManifestFile, ...]] | None = None
        """A commit that may be followed; whether it is, is for whoever takes snapshots."""
        self._accepted: str | None = None
        self._applied: str | None = None
        self._noted: str | None = None
        """What the repository keeps as applied."""
        self._files: tuple[ManifestFile, ...] = ()
        self._synced_at: datetime | None = None

    async def sync(self) -> None:
        """Look now; return when what was seen was taken up."""
        await self._looks.ask()

    def accept(self, commit: str) -> None:
        """A commit that was yielded was taken up."""
        self._accepted = commit

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """What was applied last, then a snapshot at each look; for ever."""
        if (known := await self._known()) is not None:
            yield known
        while True:
            with self._looks.look():
                await self._note_accepted()  # what was confirmed meanwhile
                yield await self._look()
                await self._note_accepted()
            jitter = 1 + random.uniform(-JITTER, JITTER)  # noqa: S311  no secret
            await self._looks.wait(self._following.interval * jitter)

    async def _known(self) -> Snapshot | None:
        """What was applied before the daemon started, without asking anybody."""
        try:
            await self._repository.open()
            self._applied = self._noted = await self._repository.commit(APPLIED)
            self._files = await read(self._repository, self._applied, self._following.folder)
        except (GitError, RefusedError, OSError):
            return None
        return self._snapshot()

    async def _look(self) -> Snapshot:
        """Ask the repository, and judge what it has."""
        attempted = None
        try:
            if await self._repository.open():
                self._noted = None
            whole = self._applied is not None
            attempted = await self._repository.fetch(self._following.ref, whole=whole)
            self._synced_at = self._utc()
            if self._following.signers is not None:  # who may sign changes, too
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
        """The files of a commit that may be followed. Raises `RefusedError` and `GitError`."""
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
        """Whether a commit descends from the applied one. Raises `RefusedError`."""
        try:
            await self._repository.git("merge-base", "--is-ancestor", str(self._applied), commit)
        except GitError:
            raise RefusedError(
                f"it does not descend from {str(self._applied)[:12]}, which is applied; an old or "
                "rewritten history is followed with --git-allow-rewind only"
            ) from None

    async def _note_accepted(self) -> None:
        """Keep what was taken up, for the next start and as the measure of what is newer."""
        if self._candidate is not None and self._candidate[0] == self._accepted:
            (self._applied, self._files), self._candidate = self._candidate, None
        if self._applied is None or self._noted == self._applied:
            return
        with suppress(GitError):  # what keeps it from being written keeps the next fetch from it
            await self._repository.git("update-ref", APPLIED, self._applied)
            self._noted = self._applied

    def _snapshot(self, attempted: str | None = None, problem: str | None = None) -> Snapshot:
        """What is applied, or that nothing is known yet."""
        commit = Commit(self._applied, attempted, problem, self._synced_at)
        unreadable = problem if self._applied is None else None
        return Snapshot(self.name, self._files, unreadable, commit=commit)
