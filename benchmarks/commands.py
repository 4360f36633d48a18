"""Duration of a command that only queries the daemon, compared with importing aiohttp alone."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import DEVNULL

from benchmarks.daemon import Daemon
from benchmarks.measure import Result, Side, compare


def process(*arguments: str, **environ: str) -> Side:
    """Seconds from the start to the end of a Python process."""

    async def once() -> float:
        begin = time.perf_counter()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments), stdout=DEVNULL, stderr=DEVNULL, env=os.environ | environ
        )
        if await child.wait():
            raise RuntimeError(f"{arguments} failed")
        return time.perf_counter() - begin

    return once


async def run(daemon: Daemon, *, quick: bool) -> list[Result]:
    """Run all of these benchmarks."""
    return [
        await compare(
            f"reconciler {command}",
            process("-m", "reconciler", command, RECONCILER_URL=daemon.url),
            "python -c 'import aiohttp'",
            process("-c", "import aiohttp"),
            turns=5 if quick else 15,
            target="≤ 2.0",
        )
        for command in ("ps", "get", "ls")
    ]
