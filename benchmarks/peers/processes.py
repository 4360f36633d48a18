"""Processes of a measured server: measured and ended with all their children."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.install import SkippedError
from reconciler.host import children

STOP_SECONDS = 15.0
"""Time that a server has to end after SIGTERM."""

OWN = ("RECONCILER_", "RAPID_MLX_", "VLLM_", "HF_")
"""Prefixes of variables that no measured server inherits: each starts with its defaults."""


@dataclass(frozen=True)
class Tree:
    """A process with all its descendants."""

    pid: int
    log: Path
    """What the processes printed."""

    def seconds(self) -> float:
        """CPU time of the processes so far, also of ended ones that were waited for."""
        total = 0.0
        for process in self._living():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def memory(self) -> float:
        """Resident bytes; pages that processes share are divided among them (PSS on Linux)."""
        total = 0
        for process in self._living():
            with contextlib.suppress(psutil.NoSuchProcess):
                info = process.memory_full_info()
                total += getattr(info, "pss", info.uss)
        return float(total)

    def ended(self) -> str:
        """Last line that an ended process printed; empty while it runs."""
        try:
            self._living()
        except SkippedError as error:
            return str(error)
        return ""

    def _living(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self.pid)
            if root.status() != psutil.STATUS_ZOMBIE:
                return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            pass
        raise SkippedError(f"ended: {last_line(self.log)}")


def last_line(log: Path) -> str:
    """Last line of text in a log, shortened."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines()]
    return next((line[:200] for line in reversed(lines) if line), "it printed nothing")


def environment(home: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Variables for a server: caches below `home`, nothing from the hub, no settings of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(OWN)}
    private = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1"}
    return children.without_relative_paths(kept | private | dict(more))


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str], home: Path, more: Mapping[str, str]
) -> AsyncIterator[Tree]:
    """Run a command in a new process group; at the end, nothing of it is left."""
    log = home / "log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=home,
            env=environment(home, more),
            process_group=0,
        )
    try:
        yield Tree(process.pid, log)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process, and whatever it started that is still there: workers have own groups."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    children.kill_group(process.pid)
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    await process.wait()
