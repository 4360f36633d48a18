"""Word from the operating system that something under a directory changed.

The watch is set on a thread: that walks the whole directory, which takes time for a large one and
for ever on a mount whose server is gone.

The paths that changed are only a hint which ones to look at: events get lost, and none comes for
what is changed on a server or through a link. So after every `rescan_seconds` everything may have
changed, and wherever the paths are in doubt as well.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from watchfiles._rust_notify import RustNotify

DEBOUNCE_MS = 200
STEP_MS = 50

MAX_NAMED = 1000
"""Paths of one look: with more, events may be lost, and to look at everything is as quick."""


class Watch:
    """Sets `changed` at each change of a directory, and every `rescan_seconds`."""

    def __init__(self, directory: Path, rescan_seconds: float) -> None:
        self.changed = asyncio.Event()
        self.settled = asyncio.Event()
        """Set once the directory is watched, or cannot be."""
        self.root: tuple[int, int] | None = None
        """Device and inode of the directory that is watched; None: it is not watched."""
        self.problem: str | None = None
        """Why it cannot be watched though it is there."""
        self.linked = False
        """True if its path has links, which may come to lead elsewhere."""
        self._directory = directory
        self._rescan_seconds = rescan_seconds
        self._named: set[str] | None = None
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()

    def take(self) -> frozenset[str] | None:
        """Paths that changed since the last call, relative to the directory; None: perhaps all."""
        named, self._named = self._named, set() if self.settled.is_set() else None
        return frozenset(named) if named else None

    def _run(self) -> None:
        try:
            root = identity(self._directory)
            linked = os.path.realpath(self._directory) != str(self._directory)
            with RustNotify([str(self._directory)], False, False, 0, True, True) as notify:  # noqa: FBT003
                self._call(self._is_set, root, linked)
                rescan = time.monotonic() + self._rescan_seconds
                while True:
                    left = max(1, int(1000 * (rescan - time.monotonic())))
                    changes = notify.watch(DEBOUNCE_MS, STEP_MS, left, self._stop)
                    named = None
                    if time.monotonic() >= rescan:
                        rescan = time.monotonic() + self._rescan_seconds
                    elif not isinstance(changes, str):
                        named = relative_paths(self._directory, [path for _, path in changes])
                    if changes in ("stop", "signal"):
                        break
                    self._call(self._note, named)
        except (FileNotFoundError, NotADirectoryError):
            self._call(self._failed, None)
        except Exception as error:  # noqa: BLE001  it is looked at without a watch
            self._call(self._failed, f"{type(error).__name__}: {error}")

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _note(self, named: frozenset[str] | None) -> None:
        """These paths changed; None: perhaps all."""
        if named is None or self._named is None or len(self._named | named) > MAX_NAMED:
            self._named = None
        else:
            self._named |= named
        self.changed.set()

    def _is_set(self, root: tuple[int, int], linked: bool) -> None:  # noqa: FBT001
        self.root, self.linked = root, linked
        self.settled.set()

    def _failed(self, problem: str | None) -> None:
        self.root, self.problem, self._named = None, problem, None
        self.settled.set()
        self.changed.set()


def relative_paths(directory: Path, paths: Collection[str]) -> frozenset[str] | None:
    """Paths under a directory relative to it; None if they cannot be told for sure.

    A path may be spelt in another way than the directory lists it: by where a link leads, or, for
    what is no ASCII, in another of Unicode's forms.
    """
    start = f"{directory}/"
    named = frozenset(path.removeprefix(start) for path in paths if path.startswith(start))
    sure = len(named) == len(frozenset(paths)) and all(path.isascii() for path in named)
    return named if sure else None


def identity(directory: Path) -> tuple[int, int]:
    """Device and inode of a directory. Raises `OSError`."""
    about = directory.stat()
    return about.st_dev, about.st_ino
