"""Memory that MLX uses for a prompt that fills the context, as a ratio to the memory that admission
counts for it: `python -m benchmarks.memory CHECKPOINT...`.

Each figure comes from its own process, with a model and a session as in a worker. On a GPU, MLX
keeps buffers for reuse, up to the limit that a worker sets; without a GPU it keeps none, and both
columns are alike. Other memory of the process is not included.
"""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import click
import mlx.core as mx

from benchmarks.settings import print_table
from reconciler.core.footprint import batch_bytes
from reconciler.core.protocol import LoadWeights, OpenSession, SeeShapes
from reconciler.core.records import EffectiveSettings
from reconciler.models.checkpoint import read_facts
from reconciler.worker import backend, overrides, wired
from reconciler.worker.model import Model
from reconciler.worker.pending import Request

EVAL_BATCH_SIZE = 512
EVERY_SECONDS = 0.0005
"""Interval between two samples of MLX's memory."""


def ratio(checkpoint: Path, context: int, *, limited: bool) -> float:
    """Ratio of MLX's peak memory, arrays and kept buffers, to the weights, KV cache and prompt."""
    overrides.install()
    backend.keep_no_buffers()
    wired.install()
    facts, model = read_facts(checkpoint), Model()
    shapes = model.see(SeeShapes(str(checkpoint)))
    loaded = model.load(LoadWeights(str(checkpoint)), lambda _: None)
    config = EffectiveSettings(
        context,
        EVAL_BATCH_SIZE,
        flash_attention=True,
        num_experts=facts.experts_per_token,
        offload_kv_cache_to_gpu=overrides.on_gpu(),
    )
    counted = batch_bytes(shapes, config, 1, context)
    held = counted if limited else sys.maxsize
    model.open("bench", OpenSession(config, facts.experts_key, shapes, held))
    prompt = [7 + i % 300 for i in range(context - 8)]
    model.session("bench").start(Request(prompt, 8, lambda *_: None, _raise))
    mx.clear_cache()
    mx.reset_peak_memory()
    with _watching() as seen:
        while model.step():
            pass
    return max(*seen, mx.get_peak_memory()) / (loaded.weights_bytes + counted)


@contextmanager
def _watching() -> Iterator[list[int]]:
    """Sample MLX's memory in bytes meanwhile."""
    seen = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(EVERY_SECONDS):
            seen.append(mx.get_active_memory() + mx.get_cache_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _raise(error: Exception) -> None:
    raise error


@click.command()
@click.argument(
    "checkpoints",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
)
@click.option("--context-length", default=8192, show_default=True, help="Tokens that are filled.")
def main(checkpoints: tuple[Path, ...], context_length: int) -> None:
    """Measure and print."""
    rows = []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for path in checkpoints:
            figures = [
                processes.submit(ratio, path, context_length, limited=limited).result()
                for limited in (False, True)
            ]
            rows.append((path.name, *(f"{figure:.2f}" for figure in figures)))
    print_table(("checkpoint", "without a limit", "with it"), rows)


if __name__ == "__main__":
    main()
