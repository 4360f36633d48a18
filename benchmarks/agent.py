"""Time to the first token of an agent's next turn, which sends the whole history again."""

import itertools
import time
from pathlib import Path
from statistics import mean
from typing import Any

import aiohttp

from benchmarks.daemon import Daemon, mlx_lm_server
from benchmarks.measure import Result, compare

MODELS = {
    "llama": "llama",
    "gpt_oss": "gpt_oss: sliding windows",
    "gemma3_text": "gemma3_text: sliding windows",
    "qwen3_5": "qwen3_5: recurrent states",
}
"""Titles by checkpoint below `bench/agent`."""

SYSTEM = "What is asked for is honoured, or the answer says why it is not. " * 30
"""A prompt of about 700 tokens of the tiny tokenizer."""

USER = "What is wanted? The loop compares records with instances. "
ANSWER = "A record says what is wanted. An instance is what is loaded."
TURNS = 5

_serial = itertools.count()


class Conversation:
    """Turns of an agent, each sent with all earlier ones."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = f"{url}/v1/chat/completions", model
        self.cached: list[int] = []
        """Prompt tokens from the prompt cache, by turn from the second."""

    async def seconds(self) -> float:
        """Mean time to the first token of turns 2 to 5 in a new conversation."""
        serial = f"{next(_serial):05d} "
        messages: list[Any] = [{"role": "system", "content": serial + SYSTEM}]
        times = []
        async with aiohttp.ClientSession() as session:
            for turn in range(TURNS):
                messages.append({"role": "user", "content": f"{turn}. {USER}"})
                body = {"model": self._model, "messages": messages, "max_tokens": 1}
                begin = time.perf_counter()
                async with session.post(self._url, json=body | {"temperature": 0}) as reply:
                    usage = (await reply.json())["usage"]
                times.append(time.perf_counter() - begin)
                if turn:
                    self.cached.append(usage["prompt_tokens_details"]["cached_tokens"])
                # A fixed answer in place of the real one: clients send answers as they parsed them.
                messages.append({"role": "assistant", "content": ANSWER})
        return mean(times[1:])


async def run(daemon: Daemon, models: Path, *, quick: bool) -> list[Result]:
    """Run all of these benchmarks."""
    results = []
    for name, what in list(MODELS.items())[:2] if quick else MODELS.items():
        model = f"bench/agent-{name}"
        await daemon.post("/api/v1/models/load", {"model": model})
        async with mlx_lm_server(models / model) as server:
            ours = Conversation(daemon.url, model)
            theirs = Conversation(server, str(models / model))
            title = f"an agent's turns 2 to {TURNS}, {what}"
            result = await compare(
                f"{title}: first token",
                ours.seconds,
                "mlx_lm.server",
                theirs.seconds,
                turns=3 if quick else 25,
                target="≤ 1.05",
            )
            results += [result, _cached(title, ours, theirs, result.turns)]
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
    return results


def _cached(title: str, ours: Conversation, theirs: Conversation, turns: int) -> Result:
    mine, other = mean(ours.cached), mean(theirs.cached)
    ratio = mine / other if other else float("inf")
    what = f"{title}: tokens from the cache"
    return Result(what, "mlx_lm.server", "tokens", mine, other, ratio, ratio, ratio, turns)
