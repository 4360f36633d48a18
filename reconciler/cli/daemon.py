"""A temporary daemon for the demo."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import click

from reconciler.cli.client import Client
from reconciler.host import children

START_SECONDS = 60.0


@contextlib.asynccontextmanager
async def running(home: Path) -> AsyncIterator[Client]:
    """Run a daemon on a free port with all its files under `home`; it logs to `home`/log."""
    with (home / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *children.python("reconciler", "serve", "--port", "0"),
            *("--manifests", str(home / "manifests")),
            *("--models", str(home / "models")),
            *("--hub-cache", str(home / "hub")),
            *("--lm-studio", str(home / "lmstudio")),
            *("--state", str(home / "state")),
            *("--prompt-cache", str(home / "prompts")),
            stdout=PIPE,
            stderr=log,
            env={
                key: value
                for key, value in children.without_relative_paths(os.environ).items()
                if not key.startswith("RECONCILER_")
            },
        )
    try:
        async with asyncio.timeout(START_SECONDS):
            line = await process.stdout.readline() if process.stdout else b""
        if not line:
            raise click.ClickException((home / "log").read_text("utf-8"))
        async with aiohttp.ClientSession() as session:
            yield Client(line.split()[-1].decode(), session)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await process.wait()
