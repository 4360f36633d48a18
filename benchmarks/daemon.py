"""Starts the measured servers: a daemon, and mlx_lm's server."""

import asyncio
import contextlib
import socket
import sys
import time
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks import usage
from benchmarks.usage import Usage
from reconciler.cli.client import Client
from reconciler.cli.daemon import running

POLL_SECONDS = 0.02
SETTLE_SECONDS = 0.3
"""Pause after a worker's socket appears, until it has printed its greeting."""

CPUCLOCK_SCHED = 2
"""Clock type in Linux's `MAKE_PROCESS_CPUCLOCK` (include/linux/posix-timers.h)."""


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process, without its children, since it started."""
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux, where other counts have steps of 10 ms
        return time.clock_gettime((~process.pid << 3) | CPUCLOCK_SCHED)
    times = process.cpu_times()
    return times.user + times.system


def process_of(home: Path) -> psutil.Process:
    """Process of the daemon that this process runs on `home`."""
    (process,) = [p for p in psutil.Process().children() if str(home / "manifests") in p.cmdline()]
    return process


class Daemon:
    """HTTP client of a running daemon."""

    def __init__(self, client: Client, home: Path) -> None:
        self.url = client.url
        self.process = process_of(home)
        self._client = client
        self._run = home / "state" / "run"

    async def post(self, path: str, body: Any) -> Any:
        """Send a POST; raises on an error."""
        return await self._client.post(path, body)

    def usage(self) -> dict[int, Usage]:
        """Resources used so far by each of its processes."""
        return usage.of_tree(self.process)

    async def first_token(self, model: str) -> None:
        """Stream a completion until its first event."""
        body = {"model": model, "prompt": "a", "max_tokens": 2, "stream": True}
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.post(f"{self.url}/v1/completions", json=body) as reply,
        ):
            async for line in reply.content:
                if line.startswith(b"data:"):
                    return

    async def until_nothing_is_loaded(self) -> None:
        """Wait until all instances are idle."""
        while True:
            models = (await self._client.get("/api/v1/models"))["models"]
            if not any(model["loaded_instances"] for model in models):
                return
            await asyncio.sleep(POLL_SECONDS)

    def sockets(self) -> list[Path]:
        """Sockets of the listening workers, the oldest first."""
        return sorted(self._run.glob("*.sock"), key=lambda path: int(path.stem))

    async def spare_is_warm(self) -> None:
        """Wait for the spare worker, so that its start does not disturb measurements."""
        while not self.sockets():  # noqa: ASYNC110  no event reports it
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(SETTLE_SECONDS)


@contextlib.asynccontextmanager
async def daemon(home: Path) -> AsyncIterator[Daemon]:
    """Run `reconciler serve` on `home`."""
    (home / "manifests").mkdir()
    async with running(home) as client:
        yield Daemon(client, home)


@contextlib.asynccontextmanager
async def mlx_lm_server(model: Path) -> AsyncIterator[str]:
    """Run `mlx_lm.server` with a model; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mlx_lm", "server", "--model", str(model)),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "ERROR"),
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as session:
            while True:
                if process.returncode is not None:
                    raise RuntimeError("mlx_lm.server did not start")
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{url}/health") as reply:
                        if reply.status == 200:
                            break
                await asyncio.sleep(POLL_SECONDS)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
