"""Runs the measurements: which rows, of which models, with how many turns."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import click

from benchmarks.limits import MODELS as LARGE
from benchmarks.limits import QUANTIZED
from benchmarks.peers import rows, servers
from benchmarks.peers.install import SkippedError
from benchmarks.peers.servers import Program, Server
from benchmarks.peers.table import Row
from benchmarks.peers.turns import in_turns

LLAMA, ON_A_GPU = "llama", "gpu"
MODELS = {
    "tiny": ("bench/tiny", "tiny llama", ("throughput",)),
    LLAMA: ("bench/llama-20m", "llama of 20 M", ("idle", "throughput", "agent", "stall")),
    "gpt_oss": ("bench/gpt_oss-20m", "gpt_oss of 20 M", ("throughput", "agent")),
    ON_A_GPU: (QUANTIZED, LARGE[QUANTIZED][0], ("throughput", "agent", "stall")),
}
"""By short name: the checkpoint, its name in the table, and what is measured with it. The last one
is there on a GPU only."""

GROUPS = (
    *(f"{group}-{name}" for name, (_, _, groups) in MODELS.items() for group in groups),
    "start",
    "memory",
)
"""Parts of the table, which can be measured alone."""

IDLE_SECONDS = 20.0
WORDS, QUICK_WORDS = 2500, 200


def programs(root: Path) -> tuple[dict[str, Program], dict[str, str]]:
    """Servers by name, installed below `root`, and the reasons why others are left out."""
    makers: dict[str, Callable[[], Program]] = {
        "reconciler": servers.reconciler,
        "mlx_lm.server": servers.mlx_lm_server,
        "vllm-mlx": lambda: servers.vllm_mlx(root),
        "Rapid-MLX": lambda: servers.rapid_mlx(root),
    }
    found, skipped = {}, {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except SkippedError as error:
            skipped[name] = str(error)
    return found, skipped


@contextlib.asynccontextmanager
async def all_started(
    found: Mapping[str, Program], models: Path, model: str
) -> AsyncIterator[tuple[dict[str, Server], dict[str, str]]]:
    """Every server with one model, and the reasons why others did not start."""
    async with contextlib.AsyncExitStack() as stack:
        started, failed = {}, {}
        for name, program in found.items():
            try:
                (started[name],) = await stack.enter_async_context(program.started(models, model))
            except SkippedError as error:
                failed[name] = str(error)
        yield started, failed


async def run(
    found: Mapping[str, Program], models: Path, only: frozenset[str], *, quick: bool
) -> list[Row]:
    """Measure all rows of the groups in `only`."""
    result = []
    for name, (model, _, groups) in MODELS.items():
        wanted = frozenset(group for group in groups if f"{group}-{name}" in only)
        if wanted and (models / model).exists() and (name == LLAMA or not quick):
            async with all_started(found, models, model) as (started, failed):
                for row in await _of(name, started, wanted, quick=quick):
                    row.measured.failed.update(failed)
                    result.append(row)
    model = MODELS[LLAMA][0]
    turns = 1 if quick else 3
    if "start" in only:
        say("starts")
        measured = await in_turns(found, rows.start(models, model), turns, 0)
        what = "from the command to the first answer"
        result += _said(
            Row(what, "seconds", "s", measured),
            Row(f"CPU time {what}", "cpu", "s", measured),
        )
    if "memory" in only:
        say("two instances")
        measured = await in_turns(found, rows.memory(models, model), 1, 0)
        result += _said(Row("resident, two instances of one model", "memory", "MB", measured))
    return result


async def _of(
    name: str, started: Mapping[str, Server], wanted: frozenset[str], *, quick: bool
) -> list[Row]:
    """Rows of servers that run with one model."""
    title = MODELS[name][1]
    turns = 1 if quick else 9 if name == "tiny" else 3  # its turns are short, and vary more
    result = []
    if "idle" in wanted:
        say("idle servers")
        measured = await rows.idle(started, 5.0 if quick else IDLE_SECONDS)
        result += _said(
            Row("idle, per minute", "cpu", "CPU s", measured),
            Row("resident, one instance", "memory", "MB", measured),
        )
    if "throughput" in wanted:
        # One turn at first warms each server up.
        for discarded, concurrency in ((1, 8),) if quick else ((1, 1), (0, 8), (0, 32)):
            what = f"{title}, {concurrency} at a time"
            say(what)
            measure = rows.throughput(concurrency)
            measured = await in_turns(started, measure, turns, discarded)
            result += _said(
                Row(what, "speed", "tokens/s", measured),
                Row(f"{what}: CPU time per token", "cpu", "ms", measured),
            )
    if "agent" in wanted:
        what = f"{title}, turns 2 to 5: first token"
        say(what)
        measured = await in_turns(started, rows.agent, turns, 0 if quick else 1)
        result += _said(Row(what, "first", "s", measured))
    if "stall" in wanted:
        words = QUICK_WORDS if quick else WORDS
        what = f"{title}, a stream beside a prompt of {words:,} words"
        say(what)
        # Reading takes a CPU half a minute: one turn, when all servers have done other work.
        measured = await in_turns(started, rows.stall(words), 1, 0)
        result += _said(
            Row(f"{what}: longest gap", "gap", "s", measured),
            Row(f"{what}: the prompt's first token", "first", "s", measured),
        )
    return result


def say(what: str) -> None:
    """Name what is measured now: the table takes minutes."""
    click.echo(what, err=True)


def _said(*finished: Row) -> list[Row]:
    """Print rows, which an interrupted run would lose."""
    for row in finished:
        say("  " + ", ".join([row.unit, *row.values()]))
    return list(finished)
