"""What is measured of each server."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from statistics import mean

from benchmarks.agent import ANSWER, SYSTEM, TURNS, USER
from benchmarks.peers.client import Answer, Chat, FailedError
from benchmarks.peers.install import SkippedError
from benchmarks.peers.servers import Program, Server
from benchmarks.peers.turns import Figures, Measured

NEW_TOKENS = 16
PROMPT = "what is wanted " * 2
"""Few tokens: reading one costs a CPU as much as generating one."""

ROUNDS = {1: 4, 8: 1, 32: 1}
"""How often so many requests at a time are sent in one turn."""

CONNECT_SECONDS = 0.002
"""Time between connections: the socket of mlx_lm.server, as all of Python's `socketserver`, queues
5 of them, and a system sends one that finds no place again after a second."""

SYSTEM_PROMPT = SYSTEM[: len(SYSTEM) // 3]
"""About 200 tokens, which a CPU reads in seconds."""

RUNNING_TOKENS = 8
"""Pieces of text of a running stream before the long prompt is sent."""

STREAM_TOKENS = 4000
"""Tokens that the running stream may have: more than while the long prompt is read."""

CALM_CPU = 0.3
CALM_SECONDS = 0.2
CALM_TRIES = 100
"""Until when a server is waited for: it has used less than 0.3 of a core for 0.2 s."""

_serial = itertools.count()


def fresh(text: str) -> str:
    """A text that no cache has the beginning of."""
    return f"{next(_serial):05d} {text}"


def throughput(concurrency: int) -> Callable[[Server], Awaitable[Figures]]:
    """Generated tokens per second, and CPU time of the server's processes per token."""

    async def one(chat: Chat, number: int) -> Answer:
        await asyncio.sleep(number * CONNECT_SECONDS)
        return await chat.ask(fresh(PROMPT), NEW_TOKENS)

    async def measure(server: Server) -> Figures:
        busy = server.tree.seconds()
        answers: list[Answer] = []
        async with Chat(server.url, server.model) as chat:
            for _ in range(ROUNDS[concurrency]):
                answers += await asyncio.gather(*(one(chat, n) for n in range(concurrency)))
        tokens = sum(answer.tokens for answer in answers)
        wall = max(a.times[-1] for a in answers) - min(a.sent for a in answers)
        return {"speed": tokens / wall, "cpu": 1000 * (server.tree.seconds() - busy) / tokens}

    return measure


async def agent(server: Server) -> Figures:
    """Mean time to the first text of turns 2 to 5 of a new conversation."""
    messages = [{"role": "system", "content": fresh(SYSTEM_PROMPT)}]
    times = []
    async with Chat(server.url, server.model) as chat:
        for turn in range(TURNS):
            messages.append({"role": "user", "content": f"{turn}. {USER}"})
            times.append((await chat.ask(messages, 1)).first)
            messages.append({"role": "assistant", "content": ANSWER})
    return {"first": mean(times[1:])}


def long_prompt(words: int) -> str:
    """A new text of so many words."""
    known = (SYSTEM + USER + ANSWER).split()
    return fresh(" ".join(random.choices(known, k=words)))  # noqa: S311


async def _beside(chat: Chat, words: int) -> tuple[Answer, Answer]:
    """A stream, and the answer of a long prompt that is sent while it runs."""
    reading: asyncio.Task[Answer] | None = None
    try:
        async with contextlib.aclosing(chat.pieces(fresh(PROMPT), STREAM_TOKENS)) as pieces:
            async for answer in pieces:
                if reading is None and len(answer.times) == RUNNING_TOKENS:
                    reading = asyncio.create_task(chat.ask(long_prompt(words), 1))
                # The gap that the prompt caused ends with the next text of the stream.
                if reading and reading.done() and answer.times[-1] > reading.result().times[0]:
                    return answer, reading.result()
        raise FailedError("the stream ended before the prompt was read")
    finally:
        if reading:
            reading.cancel()


def stall(words: int) -> Callable[[Server], Awaitable[Figures]]:
    """Longest gap of a running stream while a long prompt is read, and that prompt's first text."""

    async def measure(server: Server) -> Figures:
        async with Chat(server.url, server.model) as chat:
            answer, other = await _beside(chat, words)
        await calm(server)
        gap = answer.longest_gap(other.sent, other.times[0])
        return {"gap": gap, "first": other.first}

    return measure


async def calm(server: Server) -> None:
    """Wait until a server computes no longer for a stream whose client has left."""
    for _ in range(CALM_TRIES):
        busy = server.tree.seconds()
        await asyncio.sleep(CALM_SECONDS)
        if server.tree.seconds() - busy < CALM_CPU * CALM_SECONDS:
            return
    raise FailedError(f"it computed {CALM_TRIES * CALM_SECONDS:.0f} s more for a client that left")


def start(models: Path, model: str) -> Callable[[Program], Awaitable[Figures]]:
    """Time from the command to the first answer of one token, and CPU time until then."""

    async def measure(program: Program) -> Figures:
        async with program.started(models, model) as (server,):
            return {"seconds": server.seconds, "cpu": server.tree.seconds()}

    return measure


def memory(models: Path, model: str) -> Callable[[Program], Awaitable[Figures]]:
    """Resident MB of two instances of one model, each after an answer."""

    async def measure(program: Program) -> Figures:
        async with program.started(models, model, 2) as servers:
            for server in servers:
                async with Chat(server.url, server.model) as chat:
                    await chat.ask(fresh(PROMPT), NEW_TOKENS)
                await calm(server)  # reconciler starts a spare worker
            trees = {server.tree for server in servers}
            return {"memory": sum(tree.memory() for tree in trees) / 1e6}

    return measure


async def idle(servers: Mapping[str, Server], seconds: float) -> Measured:
    """CPU seconds per minute without requests and resident MB, of all servers at the same time."""
    measured = Measured()
    busy = {name: server.tree.seconds() for name, server in servers.items()}
    await asyncio.sleep(seconds)
    for name, server in servers.items():
        try:
            cpu = (server.tree.seconds() - busy[name]) * 60 / seconds
            measured.add(name, {"cpu": cpu, "memory": server.tree.memory() / 1e6})
        except SkippedError as error:
            measured.fail(name, str(error))
    return measured
