"""Longest gap of a running stream while another client's prompt of 2,500 words is read.

Each round of each server measures the same stream alone and beside the prompt, and the prompt's
time to its first token. The stream goes on for as long as the prompt takes.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from benchmarks.daemon import Daemon, mlx_lm_server
from benchmarks.measure import Result, summary

MODELS = {"llama": "llama", "gpt_oss": "gpt_oss: sliding windows, experts"}
"""Titles by checkpoint; each has 20 million parameters."""

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

    usual: float
    """Median gap between two tokens before the prompt is sent."""
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
    return Pauses(median(gaps[1 : BEFORE - 1]), max(gaps[BEFORE - 1 :]), first)


async def run(daemon: Daemon, models: Path, *, quick: bool) -> list[Result]:
    """Compare both servers in turns."""
    results: list[Result] = []
    for name, title in list(MODELS.items())[:1] if quick else MODELS.items():
        model = f"bench/{name}-20m"
        await daemon.post("/api/v1/models/load", {"model": model})
        async with mlx_lm_server(models / model) as server:
            rounds = []
            for number in range(1 if quick else 3):
                turns = [(daemon.url, model), (server, str(models / model))]
                found = [await pauses(*turn) for turn in turns[:: -1 if number % 2 else 1]]
                rounds.append(tuple(found[:: -1 if number % 2 else 1]))
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
        for what, target, value in (
            ("longest gap of a stream", "≤ 0.1", lambda p: p.longest),
            ("first token of the prompt", "≤ 1.3", lambda p: p.first_token),
            ("usual gap of the stream", "", lambda p: p.usual),
        ):
            pairs = [(value(ours), value(theirs)) for ours, theirs in rounds]
            name_ = f"beside a prompt of {WORDS:,} words, {title}: {what}"
            results.append(summary(name_, "mlx_lm.server", pairs, target=target))
    return results
