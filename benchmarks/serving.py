"""Speed of loaded models, compared with mlx_lm.server and with the worker without a daemon."""

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.daemon import Daemon, mlx_lm_server
from benchmarks.measure import Result, Side, compare

MODEL = "bench/tiny"
WIDE = "bench/wide"
WORDED = "bench/worded"
PROMPT_TOKENS = 30
NEW_TOKENS = 32

TARGETS = {1: "≥ 1.05", 8: "≥ 1.25", 32: "≥ 1.5"}
"""Throughput relative to mlx_lm.server, by the number of concurrent requests."""

_serial = itertools.count()


def body(model: str, **more: Any) -> dict[str, Any]:
    """Request for 32 tokens with a new prompt of about 30 tokens."""
    words = f"{next(_serial):05d} " + "what is wanted " * (PROMPT_TOKENS // 6)
    return {
        "model": model,
        "messages": [{"role": "user", "content": words}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
    } | more


def throughput(url: str, model: str, concurrency: int, requests: int, **more: Any) -> Side:
    """Generated tokens per second with `concurrency` requests at a time."""

    async def once() -> float:
        left = iter(range(requests))
        tokens = 0

        async def client(session: aiohttp.ClientSession) -> None:
            nonlocal tokens
            for _ in left:
                async with session.post(
                    f"{url}/v1/chat/completions", json=body(model, **more)
                ) as reply:
                    answer = await reply.json()
                    tokens += answer["usage"]["completion_tokens"]

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            begin = time.perf_counter()
            await asyncio.gather(*(client(session) for _ in range(concurrency)))
            return tokens / (time.perf_counter() - begin)

    return once


def completion(session: aiohttp.ClientSession, url: str, requests: int, **more: Any) -> Side:
    """Seconds per token of complete responses, one request after the other."""

    async def once() -> float:
        tokens, begin = 0, time.perf_counter()
        for _ in range(requests):
            async with session.post(url, json=body(WIDE, **more)) as reply:
                tokens += (await reply.json())["usage"]["completion_tokens"]
        return (time.perf_counter() - begin) / tokens

    return once


def first_token(session: aiohttp.ClientSession, url: str, requests: int) -> Side:
    """Mean seconds to the first text of a stream, one request after the other."""

    async def once() -> float:
        total = 0.0
        for _ in range(requests):
            begin = time.perf_counter()
            async with session.post(url, json=body(MODEL, stream=True)) as reply:
                async for line in reply.content:
                    if b'"content":' in line and b'"role"' not in line:
                        break
                total += time.perf_counter() - begin
                await reply.read()
        return total / requests

    return once


async def run(daemon: Daemon, models: Path, *, quick: bool) -> list[Result]:
    """Run all of these benchmarks."""
    await daemon.post("/api/v1/models/load", {"model": MODEL})
    results = []
    async with mlx_lm_server(models / MODEL) as server:
        for concurrency in (8,) if quick else (1, 8, 32):
            requests = 4 * concurrency if concurrency > 1 else 16
            results.append(
                await compare(
                    f"chat, {concurrency} at a time",
                    throughput(daemon.url, MODEL, concurrency, requests),
                    "mlx_lm.server",
                    throughput(server, str(models / MODEL), concurrency, requests),
                    turns=3 if quick else 9,
                    unit="tokens/s",
                    target=TARGETS[concurrency],
                )
            )
    results.append(await added_by_the_daemon(daemon, turns=5 if quick else 15))
    await daemon.post("/api/v1/models/unload", {"instance_id": MODEL})
    results.append(await log_probabilities(daemon, turns=5 if quick else 15))
    return [*results, await constrained(daemon, turns=3 if quick else 9)]


async def added_by_the_daemon(daemon: Daemon, turns: int) -> Result:
    """Time to the first token through the daemon, compared with the worker's own socket."""
    route = "/chat/completions"
    connector = aiohttp.UnixConnector(str(daemon.sockets()[0]))
    async with (
        aiohttp.ClientSession() as through,
        aiohttp.ClientSession(connector=connector) as direct,
    ):
        # Sessions are numbered; find the one that answers.
        for number in range(1, 1000):
            url = f"http://worker/sessions/{number}{route}"
            async with direct.post(url, json=body(MODEL)) as reply:
                if reply.status == 200:
                    break
        return await compare(
            "first token",
            first_token(through, f"{daemon.url}/v1{route}", 10),
            "the worker without the daemon",
            first_token(direct, url, 10),
            turns=turns,
        )


async def log_probabilities(daemon: Daemon, turns: int) -> Result:
    """Responses with the five likeliest tokens at each position, compared with ones without."""
    await daemon.post("/api/v1/models/load", {"model": WIDE})
    url = f"{daemon.url}/v1/chat/completions"
    more = {"logprobs": True, "top_logprobs": 5}
    async with aiohttp.ClientSession() as session:
        result = await compare(
            "a token with `top_logprobs: 5`, of 151,936",
            completion(session, url, 3, **more),
            "without",
            completion(session, url, 3),
            turns=turns,
            target="≤ 1.2",
        )
    await daemon.post("/api/v1/models/unload", {"instance_id": WIDE})
    return result


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 50},
    },
    "required": ["name", "tags"],
}
"""A schema that no response completes within the tokens of a request."""


async def constrained(daemon: Daemon, turns: int) -> Result:
    """Eight responses constrained by a schema, compared with eight unconstrained ones."""
    await daemon.post("/api/v1/models/load", {"model": WORDED})
    sampled = {"temperature": 1}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    result = await compare(
        "8 answers in a JSON schema, of 128,000 tokens",
        throughput(daemon.url, WORDED, 8, 8, response_format=form, **sampled),
        "8 free ones",
        throughput(daemon.url, WORDED, 8, 8, ignore_eos=True, **sampled),
        turns=turns,
        unit="tokens/s",
        target="≥ 0.9",
    )
    await daemon.post("/api/v1/models/unload", {"instance_id": WORDED})
    return result
