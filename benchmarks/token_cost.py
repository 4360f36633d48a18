"""CPU time that the daemon spends on a token of its worker, for streams and complete responses.

CPU time does not depend on what else the machine does, as far as caches allow. A token of the tiny
model takes little time in the worker, so the ratios are the worst that a model can have.
"""

import asyncio
import json

import aiohttp
import psutil

from benchmarks.daemon import Daemon, cpu
from benchmarks.measure import Result, summary
from benchmarks.serving import MODEL, body

ROUNDS = 8


async def run(daemon: Daemon, *, quick: bool) -> list[Result]:
    """Run all of these benchmarks; the model is loaded and unloaded."""
    await daemon.post("/api/v1/models/load", {"model": MODEL})
    results = []
    for concurrency in (1, 32):
        for stream in (False, True):
            requests = (2 if quick else 4) * max(concurrency, 8)
            rounds = 2 if quick else ROUNDS
            costs = [
                await _cost(daemon, concurrency, requests, stream=stream) for _ in range(rounds + 1)
            ]
            kind = "streamed" if stream else "complete"
            results.append(
                summary(
                    f"CPU of a token in the daemon, {concurrency} at a time, {kind}",
                    "in the worker",
                    costs[1:],
                )
            )
    await daemon.post("/api/v1/models/unload", {"instance_id": MODEL})
    return results


async def _cost(
    daemon: Daemon, concurrency: int, requests: int, *, stream: bool
) -> tuple[float, float]:
    """CPU seconds per token of the daemon, and of its workers with their children."""
    workers = daemon.process.children(recursive=True)
    before = cpu(daemon.process), _total(workers)
    tokens = await _generate(daemon.url, concurrency, requests, stream=stream)
    after = cpu(daemon.process), _total(workers)
    return (after[0] - before[0]) / tokens, (after[1] - before[1]) / tokens


def _total(processes: list[psutil.Process]) -> float:
    return sum(cpu(process) for process in processes)


async def _generate(url: str, concurrency: int, requests: int, *, stream: bool) -> int:
    """Number of tokens that the requests generated."""
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    left = iter(range(requests))

    async def client(session: aiohttp.ClientSession) -> int:
        tokens = 0
        for _ in left:
            async with session.post(
                f"{url}/v1/chat/completions", json=body(MODEL, **more)
            ) as reply:
                answer = await reply.read()
            if stream:  # the usage is in the last event before the end
                answer = answer.split(b"\n\n")[-3].removeprefix(b"data: ")
            tokens += json.loads(answer)["usage"]["completion_tokens"]
        return tokens

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return sum(await asyncio.gather(*(client(session) for _ in range(concurrency))))
