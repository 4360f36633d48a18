"""How near generation comes to what a GPU's memory bandwidth allows.

A step reads all weights once, for all requests of a batch, and each request's KV cache. So no
server generates more than `requests * bandwidth / (weights + requests * KV)` tokens per second. The
bandwidth is measured, not taken from a data sheet. Without a GPU there is no row: MLX's CPU
backend is bound by its matrix products.
"""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.daemon import Daemon, mlx_lm_server
from benchmarks.measure import Result, Side, summary
from benchmarks.serving import PROMPT_TOKENS, throughput

FULL, QUANTIZED = "bench/gpu", "bench/gpu-4bit"
MODELS = {FULL: ("llama of 2.8 B, bf16", None), QUANTIZED: ("llama of 2.8 B, 4 bits", 4)}
"""By checkpoint: its title, and its bits."""

TOKENS = 256
CONTEXT = 4096
TURNS = 3
AT_A_TIME = (1, 8, 32)


@dataclass(frozen=True)
class Limit:
    """What a step has to read."""

    bytes_per_second: float
    weights: int
    """Bytes of all weights."""
    kv: int
    """Bytes of the KV cache per token."""

    def tokens_per_second(self, requests: int) -> float:
        """Most tokens per second of so many requests with the benchmark's prompts and answers."""
        kept = self.kv * (PROMPT_TOKENS + TOKENS / 2)
        return requests * self.bytes_per_second / (self.weights + requests * kept)


async def alone(*words: str) -> dict[str, Any]:
    """What a process with MLX prints for these arguments. Raises RuntimeError if it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.gpu", *words), stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"python -m benchmarks.gpu {' '.join(words)} failed")
    return dict(json.loads(printed.splitlines()[-1]))


async def gpu() -> dict[str, Any] | None:
    """The GPU and its `bytes_per_second`, or None without one."""
    found = await alone("bandwidth")
    return found if found["gpu"] is not None else None


async def write(models: Path, model: str, sizes: dict[str, int]) -> dict[str, Any]:
    """Write a checkpoint; `sizes` replace some of its own. Returns the bytes that a step reads."""
    bits = MODELS[model][1]
    return await alone("write", str(models / model), str(bits).lower(), json.dumps(sizes))


async def run(daemon: Daemon, models: Path, sizes: dict[str, int] | None = None) -> list[Result]:
    """Compare the daemon, mlx_lm.server and mlx_lm without a server with the limit of the GPU."""
    found = await gpu()
    if found is None:
        return []
    results: list[Result] = []
    for model, (title, _) in MODELS.items():
        written = await write(models, model, sizes or {})
        limit = Limit(found["bytes_per_second"], written["weights"], written["kv"])
        results += await _of(daemon, models, model, title, limit)
    return results


async def _of(daemon: Daemon, models: Path, model: str, title: str, limit: Limit) -> list[Result]:
    """Rows of one checkpoint."""
    generated = await alone("generate", str(models / model))
    results = [
        _row(f"{title}, mlx_lm without a server", [generated["tokens_per_second"]], limit, 1)
    ]
    # Random weights repeat themselves, which drafts from the prompt would profit from.
    await daemon.post(
        "/api/v1/models/load", {"model": model, "context_length": CONTEXT, "prompt_lookup": False}
    )
    async with mlx_lm_server(models / model) as server:
        for requests in AT_A_TIME:
            sides = {
                "reconciler": throughput(daemon.url, model, requests, requests, max_tokens=TOKENS),
                "mlx_lm.server": throughput(
                    server, str(models / model), requests, requests, max_tokens=TOKENS
                ),
            }
            measured = await _in_turns(sides)
            results += [
                _row(f"{title}, {requests} at a time, {name}", speeds, limit, requests)
                for name, speeds in measured.items()
            ]
    await daemon.post("/api/v1/models/unload", {"instance_id": model})
    return results


async def _in_turns(sides: dict[str, Side]) -> dict[str, list[float]]:
    """Measurements by name; the first turn is discarded."""
    turns = [{name: await side() for name, side in sides.items()} for _ in range(TURNS + 1)]
    return {name: [turn[name] for turn in turns[1:]] for name in sides}


def _row(what: str, speeds: list[float], limit: Limit, requests: int) -> Result:
    most = limit.tokens_per_second(requests)
    pairs = [(speed, most) for speed in speeds]
    return summary(what, "what the memory's bandwidth allows", pairs, unit="tokens/s")
