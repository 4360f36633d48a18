"""A watched directory of manifests.

The watch is set before the first scan, so that nothing falls between them; events only say
when to look and which files not to ask about again, and every look, at an event or at a rescan, is
the same function `scan`.

The directory's path is followed at each look, because a link in it may lead elsewhere by then, as
git-sync's does at each new commit. Its name does not depend on where a link leads.
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
"""Between looks without an event: some file systems report none."""

RETRY_SECONDS = 1.0
"""Between looks at a directory that is not there, or whose path has links that may change."""

POLL_SECONDS = 5.0
"""Between looks at a directory that is there and cannot be watched."""


class DirectorySource:
    """The manifests under one directory."""

    def __init__(self, directory: Path, seconds: float = SECONDS) -> None:
        """`seconds` is what the file system may take about one path."""
        self.directory = Path(os.path.abspath(directory))  # noqa: PTH100  resolve() follows links
        self.name = f"directory:{self.directory}"
        self._scanner = Scanner(self.directory, self.name, seconds)
        self._seconds = seconds
        self._looks = RefreshRequests()
        self._unwatched: str | None = None

    async def sync(self) -> None:
        """Look now; return when what was seen was taken up."""
        await self._looks.ask()

    def accept(self, commit: str) -> None:
        """Directories have no commits."""

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """A snapshot now, and one whenever something may have changed; for ever."""
        while True:
            watch = Watch(self.directory, RESCAN_SECONDS)
            try:
                # A directory that takes longer to watch is looked at meanwhile.
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
                        break  # none or another directory is there now, or it is not watched
                    await self._wait(watch)
            finally:
                watch.close()
            if self._scanner.root is None:
                await self._looks.wait(RETRY_SECONDS)
            elif watch.root is None:
                await self._looks.wait(POLL_SECONDS)

    async def scan(self) -> Snapshot:
        """What the directory holds now."""
        return await self._scanner.scan()

    async def _wait(self, watch: Watch) -> None:
        """Return when there may be something new."""
        seconds = None
        if not watch.settled.is_set():
            seconds = POLL_SECONDS
        elif watch.linked:
            seconds = RETRY_SECONDS
        while not await self._asked(watch, seconds):
            if not (watch.settled.is_set() and await self._is_same(watch)):
                return

    async def _is_same(self, watch: Watch) -> bool:
        """True if the path still leads to the directory that is watched."""
        found, _ = in_thread(identity, self.directory)
        try:
            return await asyncio.wait_for(found, self._seconds) == watch.root
        except (OSError, TimeoutError):
            return False

    async def _asked(self, watch: Watch, seconds: float | None) -> bool:
        """Wait for an event, or for somebody to ask; False after so many seconds."""
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
        """A log line where the directory is there and cannot be watched, once for each reason."""
        if watch.problem is not None and watch.problem != self._unwatched:
            log.warning("directory cannot be watched", source=self.name, why=watch.problem)
        self._unwatched = watch.problem
