"""`pull`, and `downloads list`, `watch` and `cancel`."""

import asyncio
from functools import partial
from typing import Any

import click

from reconciler.cli import completing
from reconciler.cli.client import Client, NotFoundError, asks
from reconciler.cli.output import Column, clock, output, show
from reconciler.cli.printing import say
from reconciler.cli.progress import watched
from reconciler.cli.reconnecting import POLL_SECONDS, repeated
from reconciler.core.memory import readable_bytes
from reconciler.core.near import hint

INTERVAL_SECONDS = 0.5

ROUTE = "/api/v1/models/download"


@click.command(epilog="\b\nExample:\n  reconciler pull mlx-community/Qwen3-0.6B-4bit")
@click.argument("model", shell_complete=completing.models)
@click.option("--revision", help="Commit, branch or tag.  [default: main]")
@asks
async def pull(client: Client, *, model: str, revision: str | None) -> None:
    """Download MODEL from the Hugging Face hub, or resume its download.

    The daemon downloads in the background: Ctrl-C does not stop it; `reconciler downloads cancel`
    does.
    """
    body = {"model": model} | ({"revision": revision} if revision else {})

    async def begin() -> Any:
        return await repeated(client, partial(client.post, ROUTE, body))

    job = await begin()
    while job["status"] != "already_downloaded":
        try:
            await _watch(client, job)
        except NotFoundError:  # the daemon has restarted
            job = await begin()
        else:
            return
    say(f"{model} is already downloaded")
    if "message" in job:
        say(f"note: {job['message']}", err=True)


@click.group()
def downloads() -> None:
    """List, watch and cancel downloads from the Hugging Face hub."""


def _share(job: Any) -> str | None:
    total = job["total_size_bytes"]
    return f"{job['downloaded_bytes'] * 100 // total}%" if total else None


def _speed(job: Any) -> str | None:
    if job["status"] != "downloading":
        return None
    return f"{readable_bytes(int(job['bytes_per_second']))}/s"


DOWNLOADS = (
    Column("MODEL", lambda d: d["model"]),
    Column("STATUS", lambda d: d["status"]),
    Column("DONE", _share),
    Column("SIZE", lambda d: d["total_size_bytes"] and readable_bytes(d["total_size_bytes"])),
    Column("SPEED", _speed),
    Column("STARTED", lambda d: clock(d["started_at"])),
    Column("JOB", lambda d: d["job_id"], wide=True),
    Column("PROBLEM", lambda d: d["error"] and d["error"]["message"], wide=True),
)


@downloads.command(name="list")
@output
@asks
async def list_(client: Client, *, form: str) -> None:
    """List the downloads since the daemon started; `-o wide` shows why one failed."""
    show(await _jobs(client), DOWNLOADS, form, empty="there are no downloads", name="model")


@downloads.command()
@click.argument("model", shell_complete=completing.models)
@asks
async def watch(client: Client, *, model: str) -> None:
    """Show the progress of the download of MODEL until it ends; Ctrl-C leaves it running."""
    await _watch(client, await _latest(client, model))


@downloads.command()
@click.argument("model", shell_complete=completing.models)
@asks
async def cancel(client: Client, *, model: str) -> None:
    """Cancel the download of MODEL; the next download resumes it.

    For a record with `download: if-missing`, the next load attempt restarts it.
    """
    job = await _latest(client, model)
    if job["status"] != "downloading":
        raise click.ClickException(f"the download of {model} has already ended: {job['status']}")
    await client.delete(f"{ROUTE}/{job['job_id']}")
    click.echo(f"the download of {model} is cancelled")


async def _jobs(client: Client) -> list[Any]:
    jobs: list[Any] = (await client.get(ROUTE))["downloads"]
    return jobs


async def _latest(client: Client, model: str) -> Any:
    """The latest download of a model or with a job identifier. Raises `NotFoundError`."""
    jobs = await _jobs(client)
    found = [job for job in jobs if model in (job["model"], job["job_id"])]
    if not found:
        names = {job["model"] for job in jobs}
        raise NotFoundError(f"there is no download of '{model}'{hint(model, names)}")
    return found[-1]


async def _watch(client: Client, job: Any) -> None:
    """Show a download until it ends. Raises `click.ClickException` if it fails."""
    with watched("downloading") as update:
        while job["status"] == "downloading":
            update(job["downloaded_bytes"], job["total_size_bytes"])
            await asyncio.sleep(INTERVAL_SECONDS)
            status = f"{ROUTE}/status/{job['job_id']}"
            job = await repeated(client, partial(client.get_within, POLL_SECONDS, status))
    if job["error"] is not None:
        raise click.ClickException(job["error"]["message"])
    say(f"{job['model']} is downloaded: {readable_bytes(job['total_size_bytes'] or 0)}")
