"""Longest gap of a running stream while another client's long prompt is read.

`make bench --peers` compares more servers; here the two sides take turns.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemon import Daemon, mlx_lm_server
from benchmarks.measure import Result, summary
from benchmarks.peers.client import Answer, Chat
from benchmarks.peers.rows import long_prompt

MODELS = {"llama": "llama", "gpt_oss": "gpt_oss: sliding windows, experts"}
"""Titles by checkpoint; each has 20 million parameters."""

ROUNDS = 2
"""A round takes a minute or more for each server, so there are few."""

WORDS = 2500
BEFORE = 30
"""Tokens of the stream before the prompt is sent."""

MOST = 4000
"""Maximum tokens of the stream: more than are generated while the prompt is read."""

LETTER = {"66": 100}
"""Biased to this token, a letter, each token is text. Others may be parts of characters, which
servers hold back."""


@dataclass(frozen=True)
class Pauses:
    """Seconds of one round."""

    longest: float
    """Longest gap of the stream until the prompt's first token."""
    first_token: float
    """Time to the prompt's first token."""


async def pauses(url: str, model: str) -> Pauses:
    """Measure one round. Raises RuntimeError if the stream ends too early."""
    reading: asyncio.Task[Answer] | None = None
    async with Chat(url, model, logit_bias=LETTER) as chat, asyncio.TaskGroup() as group:
        pieces = chat.pieces("What is wanted?", MOST)
        async with contextlib.aclosing(pieces):
            async for stream in pieces:
                if reading is None and len(stream.times) == BEFORE:
                    reading = group.create_task(chat.ask(long_prompt(WORDS), 1))
                # The gap that the prompt caused ends with the next text of the stream.
                if reading and reading.done() and stream.times[-1] > reading.result().times[0]:
                    prompt = reading.result()
                    return Pauses(stream.longest_gap(prompt.sent, prompt.times[0]), prompt.first)
    raise RuntimeError("the stream ended before the prompt was read")


async def run(daemon: Daemon, models: Path) -> list[Result]:
    """Compare both servers in turns."""
    results: list[Result] = []
    for name, title in MODELS.items():
        model = f"bench/{name}-20m"
        await daemon.post("/api/v1/models/load", {"model": model})
        rounds: list[tuple[Pauses, Pauses]] = []
        async with mlx_lm_server(models / model) as server:
            for number in range(ROUNDS):
                if number % 2:
                    theirs = await pauses(server, str(models / model))
                    ours = await pauses(daemon.url, model)
                else:
                    ours = await pauses(daemon.url, model)
                    theirs = await pauses(server, str(models / model))
                rounds.append((ours, theirs))
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
        longest = [(ours.longest, theirs.longest) for ours, theirs in rounds]
        first = [(ours.first_token, theirs.first_token) for ours, theirs in rounds]
        what = f"a stream beside a prompt of {WORDS:,} words, {title}"
        results += [
            summary(f"{what}: longest gap", "mlx_lm.server", longest, target="≤ 0.1"),
            summary(f"{what}: the prompt's first token", "mlx_lm.server", first, target="≤ 1.3"),
        ]
    return results
