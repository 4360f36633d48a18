"""Measures many records: 100, 1,000 and 10,000 suspended manifests in one directory.

The figures are the daemon's CPU time, which other programs disturb less than the clock, of a
restart, of one more manifest from its file to the beginning of its load, and of GET /records; also
the duration of a pass without work, and the latency of /health while 1,000 manifests appear.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import quote

import aiohttp
import psutil

from benchmarks.daemon import cpu, process_of
from benchmarks.measure import Result
from reconciler.cli.daemon import running

COUNTS = (100, 1_000, 10_000)
MORE = 15
"""Number of manifests added one by one. The median counts: the first one has its model inspected,
and the complete rescan, every 30 s, may fall into some."""

REQUESTS = 50
APPEARING = 1_000

PASS_SECONDS = 0.03
GAP_SECONDS = 0.2

MANIFEST = """\
apiVersion: reconciler/v1
kind: ModelInstance
metadata: {{name: {name}}}
spec: {{model: {model}, suspend: {suspend}, idle_ttl_seconds: 3600, config: {{context_length: 64}}}}
"""


@dataclass(frozen=True)
class Figures:
    """Figures for one number of records, in seconds."""

    start: float
    """CPU time."""
    more: float
    """CPU time."""
    idle: float
    listed: float
    """CPU time."""


@dataclass(frozen=True)
class Served:
    """A daemon, its process and its HTTP client."""

    url: str
    session: aiohttp.ClientSession
    process: psutil.Process

    def cpu(self) -> float:
        """CPU seconds of the daemon alone since it started."""
        return cpu(self.process)

    async def get(self, path: str) -> bytes:
        """Body of a GET that must succeed."""
        async with self.session.get(self.url + path) as reply:
            reply.raise_for_status()
            return await reply.read()

    async def post(self, path: str, body: object) -> bytes:
        """Body of a POST that must succeed."""
        async with self.session.post(self.url + path, json=body) as reply:
            reply.raise_for_status()
            return await reply.read()


@contextlib.asynccontextmanager
async def served(home: Path) -> AsyncIterator[Served]:
    """Run a daemon on `home`; yields it once it has scanned its manifests."""
    async with running(home) as client, aiohttp.ClientSession() as session:
        daemon = Served(client.url, session, process_of(home))
        await daemon.post(f"/api/v1/sources/{quote(_source(home))}/sync", {})
        yield daemon


def _source(home: Path) -> str:
    return f"directory:{home / 'manifests'}"


def declare(home: Path, name: str, model: str, *, suspend: bool) -> None:
    """Write a manifest."""
    text = MANIFEST.format(name=name, model=model, suspend=str(suspend).lower())
    (home / "manifests" / f"{name}.yaml").write_text(text, "utf-8")


async def measure(home: Path, model: str, count: int) -> Figures:
    """Figures of a daemon with `count` records."""
    for i in range(count):
        declare(home, f"n{i:05}", model, suspend=True)
    async with served(home):
        pass  # stores the records on disk
    async with served(home) as daemon:
        start = daemon.cpu()
        more = median([await _one_more(daemon, home, model, i) for i in range(MORE)])
        idle = await _idle_pass(daemon)
        listed = median([await _listed(daemon) for _ in range(3)])
    return Figures(start, more, idle, listed)


async def _one_more(daemon: Served, home: Path, model: str, number: int) -> float:
    """CPU seconds from the file of one more record to the beginning of its load."""
    name = f"more-{number}"
    async with daemon.session.get(daemon.url + "/api/v1/events") as events:
        async for line in events.content:  # skip the events before now
            if b"data:" in line or not line.strip():
                break
        before = daemon.cpu()
        declare(home, name, model, suspend=False)
        async for line in events.content:
            if b'"phase"' in line and f'"{name}"'.encode() in line:
                break
        after = daemon.cpu()
    await daemon.get(f"/api/v1/records/{name}?wait=ready&timeout=60")
    return after - before


async def _idle_pass(daemon: Served) -> float:
    """Seconds of a pass without work; the end of each request triggers one."""
    passes, seconds = await _passes(daemon)
    for _ in range(REQUESTS):
        await daemon.post("/v1/completions", {"model": "more-0", "prompt": "a", "max_tokens": 1})
    passes_then, seconds_then = await _passes(daemon)
    return (seconds_then - seconds) / (passes_then - passes)


async def _passes(daemon: Served) -> tuple[float, float]:
    """Number of passes and their total duration in seconds."""
    found = {}
    for line in (await daemon.get("/metrics")).decode().splitlines():
        key, _, value = line.partition(" ")
        if key.startswith("reconciler_reconcile_seconds_"):
            found[key.rpartition("_")[2]] = value
    return float(found["count"]), float(found["sum"])


async def _listed(daemon: Served) -> float:
    """CPU seconds of the daemon for a list of all records."""
    begin = daemon.cpu()
    await daemon.get("/api/v1/records")
    return daemon.cpu() - begin


async def longest_gap(home: Path, model: str) -> float:
    """Longest response time of /health while 1,000 manifests appear, in seconds."""

    def appear() -> None:
        for i in range(APPEARING):
            declare(home, f"n{i:05}", model, suspend=True)

    async with served(home) as daemon:
        appearing = asyncio.create_task(asyncio.to_thread(appear))
        gaps = []
        last = f"{daemon.url}/api/v1/records/n{APPEARING - 1:05}"
        while not appearing.done() or not await _is_there(daemon, last):
            for _ in range(20):
                begin = time.perf_counter()
                await daemon.get("/health")
                gaps.append(time.perf_counter() - begin)
                await asyncio.sleep(0.005)
        await appearing
    return max(gaps)


async def _is_there(daemon: Served, url: str) -> bool:
    async with daemon.session.get(url) as reply:
        return reply.ok


async def run(home: Path, model: str, *, quick: bool) -> list[Result]:
    """Run all of these benchmarks, each number of records in its own home."""
    counts = COUNTS[:-1] if quick else COUNTS
    figures = {}
    for count in (*counts, None):
        place = home / f"records-{count}"
        (place / "manifests").mkdir(parents=True)
        (place / "models").symlink_to(home / "models")
        if count is None:
            gap = await longest_gap(place, model)
        else:
            figures[count] = await measure(place, model, count)
    base, results = figures[counts[0]], []
    for count in counts[1:]:
        of, than = figures[count], f"{counts[0]} records"
        per = counts[0] / count
        results += [
            _result(f"CPU of a start, {count} records", than, of.start, base.start),
            _result(
                f"CPU until one more load begins, {count} records",
                than,
                of.more,
                base.more,
                "≤ 2.0" if count == COUNTS[-1] else "",
            ),
            _result(f"a pass, {count} records", "the limit", of.idle, PASS_SECONDS, "≤ 1.0"),
            _result(
                f"GET /records, {count} records, of each",
                than,
                of.listed * per,
                base.listed,
                "≤ 1.5",
            ),
        ]
    what = f"longest wait for /health, {APPEARING} manifests appear"
    return [*results, _result(what, "the limit", gap, GAP_SECONDS, "≤ 1.0")]


def _result(what: str, against: str, ours: float, theirs: float, target: str = "") -> Result:
    ratio = ours / theirs
    return Result(what, against, "s", ours, theirs, ratio, ratio, ratio, 1, target)
