"""Duration of loads, compared with a cold process that does the same and with reading alone."""

import asyncio
import mmap
import sys
import time
from collections.abc import Awaitable, Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

from benchmarks import usage
from benchmarks.daemon import Daemon
from benchmarks.measure import Result, Side, compare
from benchmarks.usage import Usage

COLD = "a cold process with mlx_lm.load"
COLD_ASKED = "a cold process that also generates a token"
_COLD_CODE = "import sys; from mlx_lm import load; load(sys.argv[1])"
_ASKED_CODE = (
    "import sys; import mlx.core as mx; from mlx_lm import load; "
    "mx.eval(load(sys.argv[1])[0](mx.array([[1]])))"
)

Quantity = Callable[[Usage], float]
"""A resource, as a number."""


async def cold(model: Path, code: str = _COLD_CODE) -> float:
    """Seconds of a process that loads a model with mlx_lm and exits."""
    begin = time.perf_counter()
    await _run(code, model)
    return time.perf_counter() - begin


async def _run(code: str, model: Path) -> Usage:
    """Resources used by a process that runs `code`, with a model as its argument."""
    before = usage.of_ended_children()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(model))
    if await process.wait():
        raise RuntimeError(f"mlx_lm could not load {model}")
    return usage.of_ended_children().since(before)


def cold_use(model: Path, of: Quantity, code: str = _COLD_CODE) -> Side:
    """A resource used by a process that loads a model with mlx_lm and exits."""

    async def once() -> float:
        return of(await _run(code, model))

    return once


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


def _size(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


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


def load_use(daemon: Daemon, model: str, of: Quantity) -> Side:
    """A resource used by the daemon and its workers from the POST of a load to its response."""

    async def once() -> float:
        await daemon.spare_is_warm()
        before = daemon.usage()
        await daemon.post("/api/v1/models/load", {"model": model})
        used = usage.between(before, daemon.usage())
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
        await daemon.spare_is_warm()
        return of(used)

    return once


def just_in_time(daemon: Daemon, model: str) -> Side:
    """Seconds from a request for an idle model to its first token."""

    async def once() -> float:
        await daemon.post("/api/v1/models/load", {"model": model, "idle_ttl_seconds": 1})
        await daemon.until_nothing_is_loaded()
        await daemon.spare_is_warm()
        begin = time.perf_counter()
        await daemon.first_token(model)
        seconds = time.perf_counter() - begin
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
        return seconds

    return once


def load_and_ask(daemon: Daemon, model: str) -> Side:
    """Seconds from the POST of a load to the first token of a request that follows it."""

    async def once() -> float:
        await daemon.spare_is_warm()
        begin = time.perf_counter()
        await daemon.post("/api/v1/models/load", {"model": model})
        await daemon.first_token(model)
        seconds = time.perf_counter() - begin
        await daemon.post("/api/v1/models/unload", {"instance_id": model})
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
    results.append(
        await compare(
            "first token of an idle model, tiny",
            just_in_time(daemon, tiny),
            "a load, then a request",
            load_and_ask(daemon, tiny),
            turns=turns,
            target="≤ 1.10",
        )
    )
    compared = tiny if quick else large
    if not quick:
        what = "POST to ready, 3.4 GB"
        path, side = models / large, load(daemon, large)
        results += [
            await compare(what, side, COLD, lambda: cold(path), turns=turns, target="≤ 0.60"),
            await compare(what, side, "reading the files alone", lambda: raw(path), turns=turns),
            *await resources(daemon, large, path, turns),
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


async def resources(daemon: Daemon, model: str, path: Path, turns: int) -> list[Result]:
    """CPU time, page faults and bytes read of a load."""

    async def once_read() -> float:
        return await asyncio.to_thread(_size, path)

    cpu, faults, read = (attrgetter(name) for name in ("cpu", "faults", "read"))
    what, side = "CPU time from POST to ready, 3.4 GB", load_use(daemon, model, cpu)
    asked = cold_use(path, cpu, _ASKED_CODE)
    found = [
        await compare(what, side, COLD, cold_use(path, cpu), turns=turns, target="≤ 0.60"),
        await compare(what, side, COLD_ASKED, asked, turns=turns),
    ]
    if sys.platform == "linux":
        compared = (
            ("page faults from POST to ready, 3.4 GB", faults, COLD, cold_use(path, faults), ""),
            ("bytes read from POST to ready", read, "the size of the files", once_read, "B"),
        )
        found += [
            await compare(what, load_use(daemon, model, of), against, theirs, turns=3, unit=unit)
            for what, of, against, theirs, unit in compared
        ]
    return found


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
