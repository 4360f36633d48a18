"""`python -m benchmarks [--peers [--only GROUP]...] [--quick] [--json FILE]`."""

import asyncio
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks import (
    agent,
    commands,
    limits,
    loading,
    neighbours,
    records,
    restored,
    serving,
    stall,
    token_cost,
)
from benchmarks.daemon import daemon
from benchmarks.measure import Result, table, write
from benchmarks.peers import run as peers
from benchmarks.peers.install import cache
from benchmarks.peers.table import table as peers_table


@click.command()
@click.option("--quick", is_flag=True, help="One or two minutes: small checkpoints, few turns.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the results here.")
@click.option("--peers", "others", is_flag=True, help="Compare with other servers instead.")
@click.option(
    "--only",
    type=click.Choice(peers.GROUPS),
    multiple=True,
    help="With --peers: measure this group of rows. Repeatable.",
)
def main(*, quick: bool, file: Path | None, others: bool, only: tuple[str, ...]) -> None:
    """Measure, and print a table."""
    if only and not others:
        raise click.UsageError("--only is an option of --peers.")
    # As Ctrl-C does: end what was started, and remove its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A short path, since the workers' sockets are below it.
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-", dir="/tmp") as directory:
        home = Path(directory).resolve()
        models = home / "models"
        command = [sys.executable, "-m", "benchmarks.checkpoints", str(models)]
        which = ["--peers"] if others else [] if quick else ["--large"]
        subprocess.run([*command, *which], check=True)
        if others:
            results = _peers(models, frozenset(only or peers.GROUPS), quick=quick)
        else:
            results = asyncio.run(_run(home, models, quick=quick))
            click.echo(table(results))
    if file is not None:
        write(results, file)


def _peers(models: Path, only: frozenset[str], *, quick: bool) -> list[Result]:
    """Compare with other servers, and print their table."""
    found, skipped = peers.programs(cache())
    if any(group.endswith(f"-{peers.ON_A_GPU}") for group in only) and not quick:
        asyncio.run(_written_for_a_gpu(models))
    rows = asyncio.run(peers.run(found, models, only, quick=quick))
    titles = {name: program.title for name, program in found.items()}
    click.echo(peers_table(rows, titles, skipped))
    return [result for row in rows for result in row.results(titles)]


async def _written_for_a_gpu(models: Path) -> None:
    if await limits.gpu() is not None:
        await limits.write(models, limits.QUANTIZED, {})


async def _run(home: Path, models: Path, *, quick: bool) -> list[Result]:
    async with daemon(home) as served:
        results = await commands.run(served, quick=quick)
        results += await serving.run(served, models, quick=quick)
        results += await token_cost.run(served, quick=quick)
        results += await neighbours.run(served, quick=quick)
        results += await agent.run(served, models, quick=quick)
        if not quick:  # it computes long prompts
            results += await restored.run(served)
        results += [] if quick else await stall.run(served, models)
        results += await loading.run(served, models, quick=quick)
        results += [] if quick else await limits.run(served, models)
    return results + await records.run(home, serving.MODEL, quick=quick)


main()
