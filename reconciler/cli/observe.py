"""`events`, `history` and `logs`."""

from typing import Any

import click

from reconciler.cli import completing, reconnecting
from reconciler.cli.client import Client, NotFoundError, asks
from reconciler.cli.output import Column, clock, output, show
from reconciler.cli.printing import for_stdout, say
from reconciler.cli.records import path

follow = click.option("-f", "--follow", is_flag=True, help="Continue until Ctrl-C.")


@click.command()
@click.option(
    "--name",
    help="Only events of this record or source.",
    shell_complete=completing.names_and_sources,
)
@follow
@asks
async def events(client: Client, *, name: str | None, follow: bool) -> None:
    """List past events; with -f, also new ones as they occur."""
    if name is not None:
        await _must_be_known(client, name)
    query = {"follow": str(follow).lower()} | ({"name": name} if name else {})
    async for kind, event in reconnecting.follow(client, "/api/v1/events", endless=follow, **query):
        if kind == "lost":
            click.echo(event["message"], err=True)
        else:
            say(
                f"{clock(event['time'])}  {event['type']:10}  {event['name']}  "
                f"{event['reason']}: {event['message']}"
            )


async def _must_be_known(client: Client, name: str) -> None:
    """Raise `NotFoundError` unless a record or a source has or had that name."""
    if (await client.get("/api/v1/history", name=name))["history"]:
        return
    if any(s["name"] == name for s in (await client.get("/api/v1/sources"))["sources"]):
        return
    await client.get(path(name))


HISTORY = (
    Column("NAME", lambda g: g["name"]),
    Column("GENERATION", lambda g: g["generation"]),
    Column("WANTED", lambda g: clock(g["wanted_at"])),
    Column("OUTCOME", lambda g: g["outcome"]),
    Column("MODEL", lambda g: g["spec"]["model"]),
    Column("MESSAGE", lambda g: g["message"]),
    Column("OWNER", lambda g: g["owner"], wide=True),
    Column("ENDED", lambda g: g["ended_at"] and clock(g["ended_at"]), wide=True),
)


@click.command()
@click.argument("name", required=False, shell_complete=completing.names)
@output
@asks
async def history(client: Client, *, name: str | None, form: str) -> None:
    """List past generations of records and their outcomes, newest first."""
    query = {"name": name} if name else {}
    kept = (await client.get("/api/v1/history", **query))["history"]
    if name and not kept:
        raise NotFoundError(f"'{name}' has no history")
    show(kept, HISTORY, form, empty="there is no history")


@click.command()
@click.argument("name", shell_complete=completing.names)
@follow
@asks
async def logs(client: Client, *, name: str, follow: bool) -> None:
    """Print the output of the worker process of the instance NAME."""
    if follow:
        async for kind, line in reconnecting.follow(client, "/api/v1/logs/stream", name=name):
            if kind == "lost":
                click.echo(line["message"], err=True)
            else:
                _print_line(line)
    else:
        for line in (await client.get("/api/v1/logs", name=name))["lines"]:
            _print_line(line)


def _print_line(line: Any) -> None:
    click.echo(f"{clock(line['time'])}  {for_stdout(line['line'])}")
