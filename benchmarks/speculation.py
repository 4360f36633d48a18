"""Speed of a request alone with speculative decoding, compared with the same instance without.

`python -m benchmarks.speculation`. The models have random weights. All layers of the model but the
first two add nothing to their input, and the draft model consists of these two: so all its drafts
are right, and the result is the most that a draft model of this size can gain.
"""

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import click

from benchmarks.daemon import Daemon, daemon
from benchmarks.measure import Result, Side, compare, table

MODEL, DRAFT = "bench/speculation", "bench/speculation-draft"
LAYERS, DRAFT_LAYERS = 8, 2
TOKENS = 128

PROMPT = [3 * n * n % 251 + 5 for n in range(120)] * 2
"""Tokens twice over, as in a request to edit a text, which the answer repeats."""


def write(directory: Path) -> None:
    """Write both checkpoints. Imports MLX."""
    import mlx.core as mx

    from tests import architectures, tiny

    for name, layers in ((MODEL, LAYERS), (DRAFT, DRAFT_LAYERS)):
        config = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": layers}
        tiny.write(architectures.config("llama") | config, directory / name)
    file = directory / MODEL / "model.safetensors"
    weights: dict[str, Any] = dict(mx.load(str(file)))  # type: ignore[arg-type]
    for key, array in weights.items():
        layer = int(key.split(".")[2]) if key.startswith("model.layers.") else 0
        if layer >= DRAFT_LAYERS and key.endswith(("o_proj.weight", "down_proj.weight")):
            weights[key] = mx.zeros_like(array)
    mx.save_safetensors(str(file), weights, metadata={"format": "mlx"})
    kept = [
        (key, array)
        for key, array in weights.items()
        if not key.startswith("model.layers.") or int(key.split(".")[2]) < DRAFT_LAYERS
    ]
    file = directory / DRAFT / "model.safetensors"
    mx.save_safetensors(str(file), dict(kept), metadata={"format": "mlx"})


def speed(session: aiohttp.ClientSession, url: str, model: str, temperature: float) -> Side:
    """Tokens per second of one answer."""
    body = {
        "model": model,
        "prompt": PROMPT,
        "max_tokens": TOKENS,
        "temperature": temperature,
        "ignore_eos": True,
    }

    async def once() -> float:
        begin = time.perf_counter()
        async with session.post(f"{url}/v1/completions", json=body) as reply:
            tokens = (await reply.json())["usage"]["completion_tokens"]
        return float(tokens / (time.perf_counter() - begin))

    return once


async def run(served: Daemon, *, quick: bool) -> list[Result]:
    """Run all of these benchmarks."""
    turns = 3 if quick else 15
    ways: dict[str, dict[str, Any]] = {
        "off": {"prompt_lookup": False},
        "lookup": {},
        "draft": {"prompt_lookup": False, "draft_model": DRAFT},
    }
    for name, more in ways.items():
        body = {"model": MODEL, "instance_id": name, **more}
        await served.post("/api/v1/models/load", body)
    results = []
    async with aiohttp.ClientSession() as session:
        for what, way, temperature, target in (
            ("prompt lookup, an answer that repeats itself", "lookup", 0, ""),
            ("prompt lookup, an answer without repetition", "lookup", 1, "≥ 0.97"),
            ("a draft model of a quarter of the layers that is always right", "draft", 0, ""),
            ("the same draft model, never right", "draft", 1, "≥ 0.97"),
        ):
            ours = speed(session, served.url, way, temperature)
            theirs = speed(session, served.url, "off", temperature)
            found = await compare(
                what, ours, "off", theirs, turns=turns, unit="tokens/s", target=target
            )
            results.append(found)
    for name in ways:
        await served.post("/api/v1/models/unload", {"instance_id": name})
    return results


@click.command()
@click.option("--quick", is_flag=True, help="Few turns.")
def main(*, quick: bool) -> None:
    """Measure, and print a table."""

    async def measured(home: Path) -> list[Result]:
        async with daemon(home) as served:
            return await run(served, quick=quick)

    # A short path, since the workers' sockets are below it.
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-", dir="/tmp") as directory:
        home = Path(directory).resolve()
        code = "import sys, pathlib; from benchmarks import speculation as s; "
        code += "s.write(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(home / "models")], check=True)
        click.echo(table(asyncio.run(measured(home))))


if __name__ == "__main__":
    main()
