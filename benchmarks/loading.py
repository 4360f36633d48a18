"""Duration of loads, compared with a cold process that does the same and with reading alone."""

import asyncio
import mmap
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.daemon import Daemon
from benchmarks.measure import Result, compare

COLD = "a cold process with mlx_lm.load"
_COLD_CODE = "import sys; from mlx_lm import load; load(sys.argv[1])"


async def cold(model: Path) -> float:
    """Seconds of a process that loads a model with mlx_lm and exits."""
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _COLD_CODE, str(model))
    if await process.wait():
        raise RuntimeError(f"mlx_lm could not load {model}")
    return time.perf_counter() - begin


async def raw(model: Path) -> float:
    """Seconds to read the weights into freshly mapped memory."""
    return await asyncio.to_thread(_read, model)


def _read(model: Path) -> float:
    files = sorted(model.glob("*.safetensors"))
    begin = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file, mmap.mmap(-1, path.stat().st_size) as memory:
            view = memoryview(memory)
            done = 0
            while count := file.readinto(view[done:]):
                done += count
            view.release()
    return time.perf_counter() - begin


def load(daemon: Daemon, model: str) -> Callable[[], Awaitable[float]]:
    """Seconds from the POST of a load to its response; the model is unloaded again."""

    async def once() -> float:
        await daemon.spare_is_warm()
        begin = time.perf_counter()
        await daemon.post("/api/v1/models/load", {"model": model})
        seconds = time.perf_counter() - begin
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
        await daemon.spare_is_warm()
        return seconds

    return once


def change(daemon: Daemon, model: str, **more: Any) -> Callable[[], Awaitable[float]]:
    """Seconds of a load that adds or reconfigures an instance; `more` is added to the request."""
    lengths = iter(range(100, 10**6))

    async def once() -> float:
        body = {"model": model, "context_length": next(lengths)} | more
        begin = time.perf_counter()
        await daemon.post("/api/v1/models/load", body)
        seconds = time.perf_counter() - begin
        if more.get("instance_id") == "attached":
            await daemon.post("/api/v1/models/unload", {"instance_id": "attached"})
        return seconds

    return once


async def run(daemon: Daemon, models: Path, *, quick: bool) -> list[Result]:
    """Run all of these benchmarks."""
    turns = 5 if quick else 9
    tiny, large = "bench/tiny", "bench/large"
    results = [
        await compare(
            "POST to ready, tiny",
            load(daemon, tiny),
            COLD,
            lambda: cold(models / tiny),
            turns=turns,
            target="≤ 0.10",
        )
    ]
    compared = tiny if quick else large
    if not quick:
        what = "POST to ready, 3.4 GB"
        path, side = models / large, load(daemon, large)
        results += [
            await compare(what, side, COLD, lambda: cold(path), turns=turns, target="≤ 0.60"),
            await compare(what, side, "reading the files alone", lambda: raw(path), turns=turns),
        ]
    reload = await measured_reload(daemon, compared, turns)
    await daemon.post("/api/v1/models/load", {"model": compared, "instance_id": "first"})
    for what, side in (
        ("Reconfigure", change(daemon, compared, instance_id="first")),
        ("Attach", change(daemon, compared, instance_id="attached")),
    ):
        results.append(
            await compare(what, side, f"Load of {compared}", constant(reload), turns=turns)
        )
    await daemon.post("/api/v1/models/unload", {"instance_id": "first"})
    return results


async def measured_reload(daemon: Daemon, model: str, turns: int) -> list[float]:
    """Seconds of consecutive loads from the files: they cannot alternate with changes of loaded
    instances, which keep the weights in memory."""
    once = load(daemon, model)
    return [await once() for _ in range(turns + 1)]


def constant(times: list[float]) -> Callable[[], Awaitable[float]]:
    """Returns the given times one after the other."""
    left = iter(times)

    async def once() -> float:
        return next(left)

    return once
