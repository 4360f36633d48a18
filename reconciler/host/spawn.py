"""Child processes with pipes whose exit does not depend on those pipes.

asyncio's own `wait` also waits until the pipes are closed (gh-119710). A descendant may keep them
open: a credential helper or a connection that ssh shares runs on in a process group of its own,
which the end of its parent's group does not reach.
"""

import asyncio
from asyncio.subprocess import Process, SubprocessStreamProtocol
from collections.abc import Callable
from typing import Any, NamedTuple

LINE_BYTES = 2**16
"""Maximum length of a line of a child's output, enforced by asyncio."""


class Spawned(NamedTuple):
    """A started process."""

    process: Process
    exited: asyncio.Event
    """Set when it has exited."""
    close: Callable[[], None]
    """Kill it if it still runs, and close its pipes."""


class _Protocol(SubprocessStreamProtocol):
    """Signals the exit of its process."""

    def __init__(self) -> None:
        super().__init__(limit=LINE_BYTES, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


async def spawn(*command: str, **options: Any) -> Spawned:
    """Start a process; the options are those of `subprocess.Popen`. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.subprocess_exec(_Protocol, *command, **options)
    return Spawned(Process(transport, protocol, loop), protocol.exited, transport.close)
