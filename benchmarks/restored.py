"""Time to the first token of a prompt of 2,000 tokens whose KV cache is on disk.

Each turn begins with a new worker, as after a restart of the daemon: once for a prompt that an
earlier worker has answered, and once for a prompt of the same length that is new.
"""

import itertools
import time
from typing import Any

import aiohttp

from benchmarks.agent import MODELS
from benchmarks.daemon import Daemon
from benchmarks.measure import Result, compare

SYSTEM = "What is asked for is honoured, or the answer says why it is not. " * 82
"""A prompt of about 2,000 tokens of the tiny tokenizer."""

TURNS = 3
"""Few, because each computes two long prompts."""

TOKENS = 1900
"""Tokens that are read from disk at least."""

_serial = itertools.count()


class Reader:
    """Measures the first token of prompts in new workers."""

    def __init__(self, daemon: Daemon, model: str) -> None:
        self._daemon, self._model = daemon, model

    async def known(self) -> float:
        """Time to the first token of a prompt that begins with an earlier one [s]."""
        prompt = _new_prompt()
        await self._ask(prompt, "What is wanted?")
        await self._restart()
        seconds, cached = await self._ask(prompt, "What is loaded?")
        if cached < TOKENS:
            raise RuntimeError(f"{cached} tokens of the prompt were found")
        return seconds

    async def unknown(self) -> float:
        """Time to the first token of a new prompt [s]."""
        await self._restart()
        seconds, cached = await self._ask(_new_prompt(), "What is loaded?")
        if cached:
            raise RuntimeError(f"{cached} tokens of a new prompt were found")
        return seconds

    async def _restart(self) -> None:
        await self._daemon.post("/api/v1/models/unload", {"instance_id": self._model})
        await self._daemon.post("/api/v1/models/load", {"model": self._model})

    async def _ask(self, system: str, user: str) -> tuple[float, int]:
        """Time of a completion of one token [s], and the prompt's tokens from the cache."""
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body: dict[str, Any] = {"model": self._model, "messages": turns, "max_tokens": 1}
        url = f"{self._daemon.url}/v1/chat/completions"
        begin = time.perf_counter()
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as reply:
            usage = (await reply.json())["usage"]
        return time.perf_counter() - begin, usage["prompt_tokens_details"]["cached_tokens"]


def _new_prompt() -> str:
    return f"{next(_serial):05d} {SYSTEM}"


async def run(daemon: Daemon) -> list[Result]:
    """Run all of these benchmarks."""
    results = []
    for name, what in list(MODELS.items())[:2]:
        model = f"bench/agent-{name}"
        await daemon.post("/api/v1/models/load", {"model": model})
        reader = Reader(daemon, model)
        results.append(
            await compare(
                f"first token of 2,000 tokens on disk, {what}",
                reader.known,
                "the same prompt computed",
                reader.unknown,
                turns=TURNS,
                target="≤ 0.1",
            )
        )
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
    return results
