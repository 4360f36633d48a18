"""A daemon of one's own, for the demo: started, spoken to over HTTP, ended."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import click

START_SECONDS = 60.0


class DaemonError(click.ClickException):
    """The daemon's own words, with the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """The daemon's HTTP, as JSON."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self._session = session

    async def get(self, path: str, **query: str) -> Any:
        """GET; raises `DaemonError` on an error."""
        async with self._session.get(self.url + path, params=query) as reply:
            return await _answer(reply)

    async def post(self, path: str, body: Any) -> Any:
        """POST; raises `DaemonError` on an error."""
        async with self._session.post(self.url + path, json=body) as reply:
            return await _answer(reply)

    async def chat(self, model: str, question: str) -> AsyncIterator[str]:
        """The answer to a question, in pieces as they come; raises `DaemonError` on an error."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "stream": True,
        }
        async with self._session.post(self.url + "/v1/chat/completions", json=body) as reply:
            if reply.status >= 400:
                await _answer(reply)
            async for line in reply.content:
                data = line.decode().strip().removeprefix("data: ")
                if data and data != "[DONE]":
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise DaemonError(500, chunk["error"]["message"])
                    yield chunk["choices"][0]["delta"].get("content", "")


async def _answer(reply: aiohttp.ClientResponse) -> Any:
    body = await reply.json()
    if reply.status >= 400:
        raise DaemonError(reply.status, body["error"]["message"])
    return body


@contextlib.asynccontextmanager
async def running(home: Path) -> AsyncIterator[Client]:
    """A daemon on a free port with everything under `home`; its log is `home`/log."""
    with (home / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "reconciler", "serve", "--port", "0"),
            *("--manifests", str(home / "manifests")),
            *("--models", str(home / "models")),
            *("--hub-cache", str(home / "hub")),
            *("--lm-studio", str(home / "lmstudio")),
            *("--state", str(home / "state")),
            stdout=PIPE,
            stderr=log,
            env={k: v for k, v in os.environ.items() if not k.startswith("RECONCILER_")},
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
