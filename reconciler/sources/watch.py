"""Word from the operating system that something under a directory changed.

The watch is set on a thread: that walks the whole directory, which takes time for a large one and
for ever on a mount whose server is gone.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchfiles._rust_notify import RustNotify

DEBOUNCE_MS = 200
STEP_MS = 50


class Watch:
    """Sets `changed` at each change of a directory, and `rescan_seconds` after the last one."""

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
        self._rescan_ms = int(rescan_seconds * 1000)
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()

    def _run(self) -> None:
        try:
            root = identity(self._directory)
            linked = os.path.realpath(self._directory) != str(self._directory)
            with RustNotify([str(self._directory)], False, False, 0, True, True) as notify:  # noqa: FBT003
                self._tell(self._is_set, root, linked)
                while (
                    not isinstance(
                        told := notify.watch(DEBOUNCE_MS, STEP_MS, self._rescan_ms, self._stop), str
                    )
                    or told == "timeout"
                ):
                    self._tell(self.changed.set)
        except (FileNotFoundError, NotADirectoryError):
            self._tell(self._failed, None)
        except Exception as error:  # noqa: BLE001  it is looked at without a watch
            self._tell(self._failed, f"{type(error).__name__}: {error}")

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _is_set(self, root: tuple[int, int], linked: bool) -> None:  # noqa: FBT001
        self.root, self.linked = root, linked
        self.settled.set()

    def _failed(self, problem: str | None) -> None:
        self.root, self.problem = None, problem
        self.settled.set()
        self.changed.set()


def identity(directory: Path) -> tuple[int, int]:
    """Device and inode of a directory. Raises `OSError`."""
    about = directory.stat()
    return about.st_dev, about.st_ino
