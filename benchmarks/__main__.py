"""`python -m benchmarks [--quick] [--json FILE]`."""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks import (
    agent,
    commands,
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


@click.command()
@click.option("--quick", is_flag=True, help="Less than a minute: small checkpoints, few turns.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the results here.")
def main(*, quick: bool, file: Path | None) -> None:
    """Measure, and print a table."""
    # A short path, since the workers' sockets are below it.
    with tempfile.TemporaryDirectory(prefix="reconciler-bench-", dir="/tmp") as directory:
        home = Path(directory).resolve()
        models = home / "models"
        command = [sys.executable, "-m", "benchmarks.checkpoints", str(models)]
        subprocess.run(command if quick else [*command, "--large"], check=True)
        results = asyncio.run(_run(home, models, quick=quick))
    click.echo(table(results))
    if file is not None:
        write(results, file)


async def _run(home: Path, models: Path, *, quick: bool) -> list[Result]:
    async with daemon(home) as served:
        results = await commands.run(served, quick=quick)
        results += await serving.run(served, models, quick=quick)
        results += await token_cost.run(served, quick=quick)
        results += await neighbours.run(served, quick=quick)
        results += await agent.run(served, models, quick=quick)
        results += await restored.run(served, quick=quick)
        results += [] if quick else await stall.run(served, models)
        results += await loading.run(served, models, quick=quick)
    return results + await records.run(home, serving.MODEL, quick=quick)


main()
