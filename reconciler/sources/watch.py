"""Change notifications of the operating system for a directory.

The watch is set on a thread, since that walks the whole directory: this takes time if it is large,
and for ever on a mount whose server is gone.

The changed paths are only a hint: events get lost, and changes on a server or through a link cause
none. Therefore everything may have changed after every `rescan_seconds`, and whenever the paths are
ambiguous.
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
"""Maximum number of paths per scan. With more, events may be lost, and a full scan is as fast."""


class Watch:
    """Sets `changed` at each change of a directory, and every `rescan_seconds`."""

    def __init__(self, directory: Path, rescan_seconds: float) -> None:
        self.changed = asyncio.Event()
        self.settled = asyncio.Event()
        """Set once the directory is watched, or cannot be."""
        self.root: tuple[int, int] | None = None
        """Device and inode of the watched directory; None if it is not watched."""
        self.problem: str | None = None
        """Error that prevents watching an existing directory."""
        self.linked = False
        """True if its path contains links, which may change their targets."""
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
        """Return relative paths changed since the last call; None if any path may have changed."""
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
        except Exception as error:  # noqa: BLE001  the directory is scanned without a watch
            self._call(self._failed, f"{type(error).__name__}: {error}")

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed and has no listeners
            self._loop.call_soon_threadsafe(function, *arguments)

    def _note(self, named: frozenset[str] | None) -> None:
        """Record changed paths; None if everything may have changed."""
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
    """Convert paths to relative ones; None if that is ambiguous.

    An event may spell a path differently from the directory's listing: by the target of a link, or,
    for non-ASCII names, in another Unicode normalization form.
    """
    start = f"{directory}/"
    named = frozenset(path.removeprefix(start) for path in paths if path.startswith(start))
    sure = len(named) == len(frozenset(paths)) and all(path.isascii() for path in named)
    return named if sure else None


def identity(directory: Path) -> tuple[int, int]:
    """Device and inode of a directory. Raises `OSError`."""
    about = directory.stat()
    return about.st_dev, about.st_ino
