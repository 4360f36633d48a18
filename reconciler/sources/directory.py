"""A watched directory of manifests.

The watch is set before the first scan, so that no change is lost between them. Events only trigger
a scan and name the paths to read; every scan, after an event or at an interval, is the same
function `scan`.

The directory's path is resolved at each scan, because a link in it may point elsewhere by then, as
git-sync's does at each new commit. The source's name does not depend on the targets of links.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import structlog

from reconciler.core.snapshot import Snapshot
from reconciler.sources.looks import RefreshRequests
from reconciler.sources.scan import SECONDS, Scanner, in_thread
from reconciler.sources.watch import Watch, identity

log = structlog.get_logger()

RESCAN_SECONDS = 30.0
"""Interval of scans without events, since some file systems report none."""

RETRY_SECONDS = 1.0
"""Interval of scans of a missing directory, or of one whose path contains links."""

POLL_SECONDS = 5.0
"""Interval of scans of an existing directory that cannot be watched."""


class DirectorySource:
    """The manifests under one directory."""

    def __init__(self, directory: Path, seconds: float = SECONDS) -> None:
        """`seconds` is the time limit of the file system for one path."""
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100  resolve() follows links
        self.name = f"directory:{self.directory}"
        self._scanner = Scanner(self.directory, self.name, seconds)
        self._seconds = seconds
        self._looks = RefreshRequests()
        self._unwatched: str | None = None

    async def sync(self) -> None:
        """Scan now; return when the result has been applied."""
        await self._looks.ask()

    def accept(self, commit: str) -> None:
        """Do nothing: directories have no commits."""

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """Yield a snapshot immediately, and another whenever something may have changed."""
        while True:
            watch = Watch(self.directory, RESCAN_SECONDS)
            try:
                # If setting the watch takes longer, the directory is scanned meanwhile.
                with suppress(TimeoutError):
                    await asyncio.wait_for(watch.settled.wait(), self._seconds)
                self._log_unwatched(watch)
                while True:
                    watch.changed.clear()
                    named = watch.take()
                    with self._looks.look() as asked:
                        yield await self._scanner.scan(None if asked else named)
                    root = self._scanner.root
                    if root is None or (watch.settled.is_set() and root != watch.root):
                        break  # the directory is gone or another one, or it is not watched
                    await self._wait(watch)
            finally:
                watch.close()
            if self._scanner.root is None:
                await self._looks.wait(RETRY_SECONDS)
            elif watch.root is None:
                await self._looks.wait(POLL_SECONDS)

    async def scan(self) -> Snapshot:
        """Scan the directory now."""
        return await self._scanner.scan()

    async def _wait(self, watch: Watch) -> None:
        """Return when something may have changed."""
        seconds = None
        if not watch.settled.is_set():
            seconds = POLL_SECONDS
        elif watch.linked:
            seconds = RETRY_SECONDS
        while not await self._asked(watch, seconds):
            if not (watch.settled.is_set() and await self._is_same(watch)):
                return

    async def _is_same(self, watch: Watch) -> bool:
        """True if the path still leads to the watched directory."""
        found, _ = in_thread(identity, self.directory)
        try:
            return await asyncio.wait_for(found, self._seconds) == watch.root
        except (OSError, TimeoutError):
            return False

    async def _asked(self, watch: Watch, seconds: float | None) -> bool:
        """Wait for an event or a request; False after that number of seconds."""
        waits = [asyncio.ensure_future(w) for w in (watch.changed.wait(), self._looks.asked())]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for one in waits:
                one.cancel()
        return bool(done)

    def _log_unwatched(self, watch: Watch) -> None:
        """Log that an existing directory cannot be watched, once per reason."""
        if watch.problem is not None and watch.problem != self._unwatched:
            log.warning("directory cannot be watched", source=self.name, why=watch.problem)
        self._unwatched = watch.problem
