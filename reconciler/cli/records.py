"""`get`, `export`, `describe`, `wait` and `clear`."""

import asyncio
import json
import time
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote

import click

from reconciler.cli import completing
from reconciler.cli.client import SILENCE_SECONDS, Client, NotFoundError, NotInTimeError, asks
from reconciler.cli.duration import Duration
from reconciler.cli.instances import config_text
from reconciler.cli.output import (
    FORMATS,
    Column,
    age,
    clock,
    condition,
    manifests_text,
    show,
    show_data,
    yaml_text,
)
from reconciler.cli.printing import for_stdout, say
from reconciler.cli.reconnecting import POLL_SECONDS, repeated
from reconciler.cli.sources import complain, sync_all
from reconciler.core.memory import readable_bytes
from reconciler.core.records import HTTP

RECORDS = (
    Column("NAME", lambda r: r["name"]),
    Column("READY", lambda r: condition(r, "Ready")["status"]),
    Column("REASON", lambda r: condition(r, "Ready")["reason"]),
    Column("MODEL", lambda r: r["spec"]["model"]),
    Column("OWNER", lambda r: r["owner"]),
    Column("AGE", lambda r: age(r["created_at"])),
    Column("ALIASES", lambda r: ", ".join(r["spec"].get("aliases", ())), wide=True),
    Column("GENERATION", lambda r: r["generation"], wide=True),
    Column("OBSERVED", lambda r: r["status"]["observed_generation"], wide=True),
    Column("PLACE", lambda r: r["file"] and f"{r['file']}:{r['line']}", wide=True),
    Column("MESSAGE", lambda r: condition(r, "Ready")["message"], wide=True),
)

LONGEST_QUESTION = 60.0
"""Maximum time that one request waits, in seconds; longer waits repeat it."""


@click.command(
    epilog="\b\nExamples:\n"
    "  reconciler get\n"
    "  reconciler get assistant -o manifest > assistant.yaml"
)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=completing.names)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice([*FORMATS, "manifest"]),
    default="table",
    help="Output format; `manifest` is valid input of `apply -f -`.",
)
@asks
async def get(client: Client, *, names: tuple[str, ...], form: str) -> None:
    """List all records, or the records NAME."""
    if names:
        found = [await client.get(path(name)) for name in names]
    else:
        found = (await client.get("/api/v1/records"))["records"]
    if form == "manifest":
        click.echo(manifests_text(found), nl=False)
    elif form in ("json", "yaml") and len(names) == 1:
        show_data(found[0], form)
    else:
        show(found, RECORDS, form, empty="nothing is declared")
    if form in ("json", "yaml", "manifest"):
        return
    if not names:
        for source in (await client.get("/api/v1/sources"))["sources"]:
            complain(source)
    for record in found if names else ():
        for error in record["source_errors"]:
            place = f"{error['file']}:{error['line']}:{error['column']}: " if error["file"] else ""
            say(f"{place}{error['message']}", err=True)


@click.command(
    epilog="\b\nExamples:\n  reconciler export > backup.yaml\n  reconciler apply -f backup.yaml"
)
@click.option("--all", "all_", is_flag=True, help="Include records declared by files and branches.")
@asks
async def export(client: Client, *, all_: bool) -> None:
    """Print the records declared by HTTP as manifests, for a backup or to move them to files."""
    records = (await client.get("/api/v1/records"))["records"]
    found = [r for r in records if all_ or r["owner"] == HTTP]
    if not found:
        click.echo("no record was declared by HTTP", err=True)
    click.echo(manifests_text(found), nl=False)


@click.command()
@click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=completing.names
)
@asks
async def describe(client: Client, *, names: tuple[str, ...]) -> None:
    """Show the records NAME: spec, conditions, effective settings, history."""
    for position, name in enumerate(names):
        if position:
            click.echo()
        await _describe(client, name)


async def _describe(client: Client, name: str) -> None:
    record = await client.get(path(name))
    status = record["status"]
    place = f" ({record['file']}:{record['line']})" if record["file"] else ""
    _print_field("Name", record["name"])
    _print_field("Owner", record["owner"] + place)
    _print_field("Created", clock(record["created_at"]))
    _print_field("Generation", f"{record['generation']}, observed {status['observed_generation']}")
    _block("Spec", yaml_text(record["spec"]))
    _block("Conditions", "\n".join(_condition(c) for c in status["conditions"]))
    if status["config"] is not None:
        _block("Settings", config_text(status["config"]).replace(", ", "\n"))
        _block("Defaults", "\n".join(map(_default, status["defaults"])))
        _print_field("Loaded", f"{clock(status['loaded_at'])} by {status['loaded_by']}")
        phases = status["load_phases"].items()
        parts = ", ".join(f"{key} {phase['duration']:.2f} s" for key, phase in phases)
        _print_field("Load time", f"{status['load_time_seconds']:.2f} s ({parts})")
        _print_field("Memory", readable_bytes(status["memory_bytes"] or 0))
        _print_field("Checkpoint", f"{status['checkpoint']} at {status['revision']}")
        if status["adapter"] is not None:
            _print_field("Adapter", status["adapter"])
        if status["draft_model"] is not None:
            _print_field("Draft model", status["draft_model"])
        _print_field("Worker", f"process {status['worker_pid']}")
    _print_field("Restarts", status["restarts"])
    warnings = [f"{w['key']}: {w['reason']}" for w in status["warnings"]]
    warnings += [error["message"] for error in record["source_errors"]]
    _block("Warnings", "\n".join(warnings))
    kept = (await client.get("/api/v1/history", name=name))["history"]
    _block("History", "\n".join(_generation(g) for g in kept[:5]))


def _print_field(word: str, value: object) -> None:
    click.echo(f"{word + ':':13}{for_stdout(str(value))}")


def _block(word: str, text: str) -> None:
    if text:
        click.echo(f"{word}:")
        for line in text.rstrip().splitlines():
            click.echo(f"  {for_stdout(line)}")


def _default(one: Any) -> str:
    value = json.dumps(one["value"], ensure_ascii=False)
    source = "generation_config.json" if one["source"] == "generation_config" else "the record"
    return f"{one['key']} {value}, from {source}"


def _condition(one: Any) -> str:
    since = f"since {clock(one['last_transition_time'])}"
    return f"{one['type']:12} {one['status']:8} {one['reason']} {since}: {one['message']}"


def _generation(one: Any) -> str:
    text = f"generation {one['generation']} of {clock(one['wanted_at'])}: {one['outcome']}"
    return f"{text}, {one['message']}" if one["message"] else text


@click.command(epilog="\b\nExample:\n  reconciler wait assistant --for ready --timeout 10m")
@click.argument("name", shell_complete=completing.names)
@click.option(
    "--for",
    "wanted",
    type=click.Choice(["ready", "gone"]),
    default="ready",
    help="State to wait for.",
)
@click.option(
    "--timeout", "seconds", type=Duration(), default="5m", help="Deadline: 30s, 5m or 1h."
)
@asks
async def wait(client: Client, *, name: str, wanted: str, seconds: float) -> None:
    """Wait until the record NAME is ready, or gone.

    If there is no such record, the sources are synced first, so that a manifest that was just
    written is found.
    """
    deadline = time.monotonic() + seconds
    if wanted == "ready":
        await _must_exist(client, name, deadline)
    while True:
        try:
            record = await repeated(
                client, lambda: _waited(client, name, wanted, deadline), deadline
            )
        except NotFoundError:
            if wanted != "gone":
                raise
            click.echo(f"{name} is gone")
            return
        ready = condition(record, "Ready")
        if wanted == "ready" and ready["status"] == "True":
            click.echo(f"{name} is ready")
            return
        why = ready["message"] if wanted == "ready" else "it is still there"
        if time.monotonic() >= deadline:
            raise NotInTimeError(f"{name} is not {wanted} after {seconds:g} s: {why}")


async def _waited(client: Client, name: str, wanted: str, deadline: float) -> Any:
    """The record once it is as wanted, or after a while."""
    seconds = min(LONGEST_QUESTION, max(0.0, deadline - time.monotonic()))
    query = {"wait": wanted, "timeout": str(seconds)}
    return await client.get_within(seconds + SILENCE_SECONDS, path(name), **query)


async def _must_exist(client: Client, name: str, deadline: float) -> None:
    """Raise `NotFoundError` if there is no such record after a sync of all sources."""
    ask = partial(client.get_within, POLL_SECONDS, path(name))
    try:
        await repeated(client, ask, deadline)
    except NotFoundError:
        with suppress(TimeoutError):
            async with asyncio.timeout(max(POLL_SECONDS, deadline - time.monotonic())):
                await sync_all(client)
        await repeated(client, ask, deadline)


@click.command()
@click.argument(
    "names", nargs=-1, required=True, metavar="NAME...", shell_complete=completing.names
)
@asks
async def clear(client: Client, *, names: tuple[str, ...]) -> None:
    """Clear crashes and failures of the records NAME, so that they are retried at once."""
    for name in names:
        await client.post(f"{path(name)}/clear", None)
        click.echo(f"the failures of {name} are cleared")


def path(name: str) -> str:
    """Path of a record in the API."""
    return f"/api/v1/records/{quote(name)}"
