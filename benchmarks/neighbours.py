"""How long a stream pauses beside the heaviest of requests, against the same stream alone."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from statistics import quantiles
from typing import Any

import aiohttp

from benchmarks.daemon import Daemon
from benchmarks.measure import Result, Side, compare

MODEL = "bench/wide"

TOKENS = 100
"""Of a stream, at least; it goes on until the request beside it is answered."""


def chat(*contents: Any, **more: Any) -> bytes:
    """The body of a request with turns of the user."""
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


def gap(url: str, heavy: bytes | None) -> Side:
    """The 99th percentile of seconds between two events of a stream, beside a request."""

    async def once() -> float:
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            beside = None if heavy is None else asyncio.create_task(_post(session, url, heavy))
            times: list[float] = []
            while len(times) < TOKENS or (beside is not None and not beside.done()):
                times += await _events(session, url)
            if beside is not None:
                await beside
        return quantiles([b - a for a, b in pairwise(times)], n=100)[-1]

    return once


async def _events(session: aiohttp.ClientSession, url: str) -> list[float]:
    body = {"model": MODEL, "prompt": "a", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    async with session.post(f"{url}/v1/completions", json=body) as reply:
        return [time.perf_counter() async for line in reply.content if line.startswith(b"data: {")]


async def _post(session: aiohttp.ClientSession, url: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    with suppress(aiohttp.ClientConnectionError):
        async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as reply:
            await reply.read()


async def run(daemon: Daemon, *, quick: bool) -> list[Result]:
    """All of it."""
    await daemon.post("/api/v1/models/load", {"model": MODEL, "context_length": 4096})
    results = [
        await compare(
            f"a stream beside {name}",
            gap(daemon.url, make()),
            "alone",
            gap(daemon.url, None),
            turns=2 if quick else 7,
            target="≤ 2.0",
        )
        for name, make in HEAVY.items()
    ]
    await daemon.post("/api/v1/models/unload", {"instance_id": MODEL})
    return results
