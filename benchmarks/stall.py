"""Longest gap of a running stream while another client's prompt of 2,500 words is read.

A prompt of another request is sent to a server that is generating a stream; its time to the first
token is measured as well.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.daemon import Daemon, mlx_lm_server
from benchmarks.measure import Result, summary

MODELS = {"llama": "llama", "gpt_oss": "gpt_oss: sliding windows, experts"}
"""Titles by checkpoint; each has 20 million parameters."""

ROUNDS = 2
"""A round takes a minute or more for each server, so there are few."""

WORDS = 2500
BEFORE = 30
"""Tokens of the stream before the prompt is sent."""

MOST = 4000
"""Maximum tokens of the stream: more than are generated while the prompt is read."""

FIRST = 16
"""Tokens of the prompt's answer: the first ones may be incomplete characters, without text."""

TEXTS = ("content", "reasoning_content", "reasoning")
"""Keys of a delta that hold text."""

_serial = itertools.count()


@dataclass(frozen=True)
class Pauses:
    """Seconds of one round."""

    longest: float
    """Longest gap from then until the prompt's first token."""
    first_token: float
    """Time to the prompt's first token."""


def body(model: str, words: int, most: int) -> dict[str, Any]:
    """Request of a stream, whose prompt of so many words has a beginning of its own."""
    text = f"{next(_serial)} begins. " + "The daemon keeps each model loaded. " * (words // 6)
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": most, "stream": True} | {
        "temperature": 0,
        # Random weights: without this bias, a server may end at the end token.
        "logit_bias": {"0": -100},
    }


async def tokens(
    session: aiohttp.ClientSession, url: str, request: dict[str, Any]
) -> AsyncIterator[float]:
    """Yield the time of each event of a stream that has text."""
    async with session.post(f"{url}/v1/chat/completions", json=request) as reply:
        reply.raise_for_status()
        async for line in reply.content:
            if line.startswith(b"data: {"):
                choices = json.loads(line[len(b"data: ") :])["choices"]
                if any(choice["delta"].get(key) for choice in choices for key in TEXTS):
                    yield time.perf_counter()


async def pauses(url: str, model: str) -> Pauses:
    """Measure one round."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        times: list[float] = []
        running = asyncio.Event()

        async def stream() -> None:
            async for at in tokens(session, url, body(model, 12, MOST)):
                times.append(at)
                if len(times) == BEFORE:
                    running.set()
            raise RuntimeError("the stream ended before the prompt was read")

        async def first_token() -> float:
            await running.wait()
            begin = time.perf_counter()
            async for at in tokens(session, url, body(model, WORDS, FIRST)):
                return at - begin
            raise RuntimeError("the prompt has no answer")

        streaming = asyncio.create_task(stream())
        asking = asyncio.create_task(first_token())
        try:
            await asyncio.wait({streaming, asking}, return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                streaming.result()
            first = asking.result()
        finally:
            streaming.cancel()
            asking.cancel()
            await asyncio.gather(streaming, asking, return_exceptions=True)
    gaps = [after - before for before, after in pairwise(times)]
    return Pauses(max(gaps[BEFORE - 1 :]), first)


async def run(daemon: Daemon, models: Path) -> list[Result]:
    """Compare both servers in turns."""
    results: list[Result] = []
    for name, title in MODELS.items():
        model = f"bench/{name}-20m"
        await daemon.post("/api/v1/models/load", {"model": model})
        async with mlx_lm_server(models / model) as server:
            rounds = []
            for number in range(ROUNDS):
                turns = [(daemon.url, model), (server, str(models / model))]
                found = [await pauses(*turn) for turn in turns[:: -1 if number % 2 else 1]]
                rounds.append(tuple(found[:: -1 if number % 2 else 1]))
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
        longest = [(ours.longest, theirs.longest) for ours, theirs in rounds]
        first = [(ours.first_token, theirs.first_token) for ours, theirs in rounds]
        what = f"a stream beside a prompt of {WORDS:,} words, {title}"
        results += [
            summary(f"{what}: longest gap", "mlx_lm.server", longest, target="≤ 0.1"),
            summary(f"{what}: the prompt's first token", "mlx_lm.server", first, target="≤ 1.3"),
        ]
    return results
