"""Pauses of a stream while the heaviest requests arrive one after the other.

The pauses are compared with those of the same stream alone, and with those during a process that
only computes: with few cores, any busy process delays a stream.

Each round measures a stream alone, one during such a process, and one during each kind of request.
A thread sends the requests over blocking sockets, so that they do not delay the measuring client.
"""

import asyncio
import contextlib
import http.client
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from benchmarks.daemon import Daemon
from benchmarks.measure import Result, summary

MODEL = "bench/wide"

TOKENS = 100
"""Tokens of a stream."""

ALONE = "alone"
BUSY = "beside a busy process"


def chat(*contents: Any, **more: Any) -> bytes:
    """Body of a request with turns of the user."""
    turns = [{"role": "user", "content": content} for content in contents]
    return json.dumps({"model": MODEL, "messages": turns, "max_tokens": 1} | more).encode()


HEAVY: dict[str, Callable[[], bytes]] = {
    "15 MB of text": lambda: chat("word " * 3_000_000),
    "7 MB of line breaks": lambda: chat("\n" * 7_000_000),
    "100,000 messages": lambda: chat(*["hello"] * 100_000),
    "16 stops of 900 kB": lambda: chat("a", stop=["a" * 900_000] * 16),
    "10,000 tools": lambda: chat(
        "a", tools=[{"type": "function", "function": {"name": "f"}}] * 10_000
    ),
    "5 million lists": lambda: (
        b'{"model": "%s", "x": [%s1]}' % (MODEL.encode(), b"[]," * 4_900_000)
    ),
}


async def run(daemon: Daemon, *, quick: bool) -> list[Result]:
    """Run all of these benchmarks."""
    await daemon.post("/api/v1/models/load", {"model": MODEL, "context_length": 4096})
    bodies = {name: make() for name, make in HEAVY.items()}
    rounds = [await _round(daemon.url, bodies) for _ in range(2 if quick else 6)][1:]
    await daemon.post("/api/v1/models/unload", {"instance_id": MODEL})
    return [
        summary(
            f"a stream beside {name}",
            against,
            [(gaps[name], gaps[against]) for gaps in rounds],
            target="≤ 2.0" if against == ALONE else "",
        )
        for name in HEAVY
        for against in (ALONE, BUSY)
    ] + [summary(f"a stream {BUSY}", ALONE, [(gaps[BUSY], gaps[ALONE]) for gaps in rounds])]


async def _round(url: str, bodies: dict[str, bytes]) -> dict[str, float]:
    """99th percentile of the seconds between two events, by the load during the stream."""
    gaps = {ALONE: await _gap(url)}
    async with _busy():
        gaps[BUSY] = await _gap(url)
    for name, body in bodies.items():
        async with _sent_again_and_again(url, body):
            gaps[name] = await _gap(url)
    return gaps


async def _gap(url: str) -> float:
    body = {"model": MODEL, "prompt": "a", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    timeout = aiohttp.ClientTimeout(total=120)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(f"{url}/v1/completions", json=body) as reply,
    ):
        lines = [time.perf_counter() async for line in reply.content if line.startswith(b"data: {")]
    return quantiles([b - a for a, b in pairwise(lines)], n=100)[-1]


@contextlib.asynccontextmanager
async def _busy() -> AsyncIterator[None]:
    """Run a process that only computes."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "while True: pass")
    try:
        yield
    finally:
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def _sent_again_and_again(url: str, body: bytes) -> AsyncIterator[None]:
    """Send a request repeatedly, each time as soon as the last one is answered."""
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            status = _status(url, body)
            if status not in (200, 400):
                raise RuntimeError(f"the heavy request was answered with {status}")

    sending = asyncio.create_task(asyncio.to_thread(send))
    try:
        yield
    finally:
        done.set()
        await sending


def _status(url: str, body: bytes) -> int:
    """Post a chat; returns the status of the response."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status
