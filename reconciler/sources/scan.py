"""Walks a directory on threads, so that a hung file system affects only itself.

A path that does not answer in time gets a diagnostic: its thread is abandoned, and further walks
skip the path until that thread has returned. The threads are daemon threads, so that none keeps
the process from exiting.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from reconciler.core.snapshot import Snapshot
from reconciler.sources.rewalk import walk
from reconciler.sources.walk import Progress, Walk

T = TypeVar("T")

SECONDS = 5.0
"""Time limit of the file system for one path."""

MAX_BLOCKED = 8
"""Number of unresponsive paths at which the whole directory counts as unreadable."""


class Scanner:
    """Scans the manifests under one directory repeatedly."""

    def __init__(self, directory: Path, name: str, seconds: float = SECONDS) -> None:
        self.directory = directory
        self.name = name
        self.root: tuple[int, int] | None = None
        """Device and inode of the directory at the last walk; None if it could not be read."""
        self._seconds = seconds
        self._last: Walk | None = None
        self._blocked: dict[str, threading.Thread] = {}

    async def scan(self, named: frozenset[str] | None = None) -> Snapshot:
        """Scan the directory now.

        `named` are relative paths: all changes since the last scan; None if everything may have
        changed.
        """
        self.root = None
        try:
            walk = await self._walk(named)
        except OSError as error:
            reason = f"{self.directory} cannot be read: {error.strerror}"
            return Snapshot(self.name, unreadable=reason)
        self._last, self.root = walk, walk.root
        return Snapshot(self.name, walk.files, empty=walk.empty, empty_folders=walk.empty_folders)

    async def _walk(self, named: frozenset[str] | None) -> Walk:
        """Walk until no path hangs. Raises `OSError`."""
        while True:
            alive = {p: t for p, t in self._blocked.items() if t.is_alive()}
            self._blocked = alive
            if len(alive) >= MAX_BLOCKED:
                raise TimeoutError(0, f"{len(alive)} of its paths do not answer")
            progress = Progress()
            found, thread = in_thread(
                walk, str(self.directory), self._last, frozenset(alive), progress, named
            )
            path = await self._watched(found, progress)
            if path is None:
                return found.result()
            self._blocked[path] = thread

    async def _watched(self, found: "asyncio.Future[Walk]", progress: Progress) -> str | None:
        """Wait for a walk; returns the path at which it hangs, or None once it has ended."""
        while not found.done():
            await asyncio.wait([found], timeout=self._seconds / 4)
            path, since = progress.path, progress.since
            if path is not None and time.monotonic() - since > self._seconds and not found.done():
                found.cancel()
                return path
        return None


def in_thread(
    function: Callable[..., T], *arguments: object
) -> tuple["asyncio.Future[T]", threading.Thread]:
    """Call a function on a daemon thread. Cancelling the future abandons the thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def end(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function(*arguments)
        except Exception as raised:  # noqa: BLE001  raised to the waiter
            error = raised
        with suppress(RuntimeError):  # the loop is closed and has no waiters
            loop.call_soon_threadsafe(end, result, error)

    thread = threading.Thread(target=run, name="scan", daemon=True)
    thread.start()
    return future, thread
