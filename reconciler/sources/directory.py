"""A watched directory of manifests.

The watch is set before the first scan, so that nothing falls between them; events only say
when to look, and every look, at an event or at a rescan, is the same function `scan`.
"""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path

from watchfiles import awatch

from reconciler.core.manifest import MAX_BYTES, Flaw, Position
from reconciler.core.snapshot import ManifestFile, Snapshot, read_file
from reconciler.sources.looks import Looks

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILES = 10_000

RESCAN_SECONDS = 30.0
"""Between looks without an event: some file systems report none."""

RETRY_SECONDS = 1.0
"""Between looks at a directory that cannot be watched, because it is not there."""


class DirectorySource:
    """The manifests under one directory."""

    def __init__(self, directory: Path) -> None:
        # macOS reaches /tmp and /var through links; the owner's name must not depend on it.
        self.directory = directory.resolve()
        self.name = f"directory:{self.directory}"
        self._looks = Looks()

    async def sync(self) -> None:
        """Look now; return when what was seen was taken up."""
        await self._looks.ask()

    def accept(self, commit: str) -> None:
        """Directories have no commits."""

    async def snapshots(self) -> AsyncGenerator[Snapshot, None]:
        """A snapshot now, and one whenever something may have changed; for ever."""
        while True:
            if (watched := self._identity()) is not None:
                async with aclosing(self._watch(watched)) as snapshots:
                    async for snapshot in snapshots:
                        yield snapshot
            else:
                with self._looks.look():
                    yield await asyncio.to_thread(self.scan)
                await self._looks.wait(RETRY_SECONDS)

    def _identity(self) -> tuple[int, int] | None:
        """Which directory it is now; None if there is none. A watch is lost with the old one."""
        try:
            found = self.directory.stat()
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if stat.S_ISDIR(found.st_mode) else None

    async def _watch(self, watched: tuple[int, int]) -> AsyncGenerator[Snapshot, None]:
        changes = awatch(
            self.directory,
            watch_filter=None,
            debounce=200,
            rust_timeout=int(RESCAN_SECONDS * 1000),
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        change = asyncio.ensure_future(anext(changes))
        wanted = asyncio.ensure_future(self._looks.asked())
        try:
            # One turn of the loop runs awatch to its first await, past setting the watch.
            await asyncio.sleep(0)
            while True:
                with self._looks.look():
                    yield await asyncio.to_thread(self.scan)
                if self._identity() != watched:
                    return
                await asyncio.wait([change, wanted], return_when=asyncio.FIRST_COMPLETED)
                if change.done():
                    change.result()
                    change = asyncio.ensure_future(anext(changes))
                if wanted.done():
                    wanted = asyncio.ensure_future(self._looks.asked())
        finally:
            wanted.cancel()
            change.cancel()
            await asyncio.gather(change, return_exceptions=True)
            await changes.aclose()

    def scan(self) -> Snapshot:
        """What the directory holds now."""
        try:
            files = tuple(self._files())
            empty = not any(self.directory.iterdir())
        except OSError as error:
            reason = f"{self.directory} cannot be read: {error.strerror}"
            return Snapshot(self.name, unreadable=reason)
        return Snapshot(self.name, files, empty=empty)

    def _files(self) -> Iterator[ManifestFile]:
        for path in sorted(self._paths()):
            relative = path.relative_to(self.directory).as_posix()
            try:
                with path.open("rb") as file:
                    data = file.read(MAX_BYTES + 1)
            except FileNotFoundError:
                continue  # removed since it was listed
            except OSError as error:
                flaw = Flaw(f"cannot be read: {error.strerror}", Position(1, 1))
                yield ManifestFile(relative, flaws=(flaw,))
            else:
                yield read_file(relative, data)

    def _paths(self) -> Iterator[Path]:
        def fail(error: OSError) -> None:
            raise error

        count = 0
        seen = set()
        # Links that the user placed are followed, and lead to each directory once.
        for folder, folders, names in os.walk(self.directory, onerror=fail, followlinks=True):
            here = Path(folder).stat()
            if (here.st_dev, here.st_ino) in seen:
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            for name in names:
                if name.endswith(SUFFIXES) and not name.startswith("."):
                    count += 1
                    if count > MAX_FILES:
                        raise OSError(0, f"more than {MAX_FILES} manifest files")
                    yield Path(folder, name)
