"""`sources`, `sync`, `confirm`, `suspend` and `resume`: sources of manifests."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import click

from reconciler.cli import completing
from reconciler.cli.client import Client, DaemonError, NotFoundError, asks
from reconciler.cli.output import Column, clock, output, show
from reconciler.cli.printing import say

SHOWN_DIGITS = 12
"""Number of digits shown of a commit."""

SHOWN_LINES = 50
"""Maximum number of lines of problems per source."""

SOURCES = (
    Column("SOURCE", lambda s: s["name"]),
    Column("READABLE", lambda s: s["readable"]),
    Column("FILES", lambda s: len(s["files"])),
    Column("RECORDS", lambda s: sum(len(file["records"]) for file in s["files"])),
    Column("COMMIT", lambda s: s["commit"] and short(s["commit"]["applied"])),
    Column("SYNCED", lambda s: s["commit"] and _time(s["commit"]["synced_at"])),
    Column("DRIFT", lambda s: len(s["drift"])),
    Column("SUSPENDED", lambda s: s["suspended"]),
    Column("ATTEMPTED", lambda s: s["commit"] and short(s["commit"]["attempted"]), wide=True),
    Column("INVALID", lambda s: sum(not file["valid"] for file in s["files"]), wide=True),
    Column("NOT-SELECTED", lambda s: len(s["not_selected"]), wide=True),
    Column("MESSAGE", lambda s: s["message"], wide=True),
)

which = click.argument("source", required=False, shell_complete=completing.sources)


@click.command()
@output
@asks
async def sources(client: Client, *, form: str) -> None:
    """List the sources of manifests, with errors in them or their files."""
    found = (await client.get("/api/v1/sources"))["sources"]
    show(found, SOURCES, form, empty="there are no sources")
    if form in ("table", "wide"):
        for source in found:
            complain(source, ("not_followed", "held", *(("not_selected",) * (form == "wide"))))


@click.command()
@which
@asks
async def sync(client: Client, *, source: str | None) -> None:
    """Sync SOURCE, or all followed sources, now."""
    names = await _named(client, source, lambda s: not s["suspended"])
    answers = [await client.post(_path(name, "sync"), None) for name in names]
    for answer in answers:
        _print_source(answer)
    if any(answer["message"] for answer in answers):
        sys.exit(1)


@click.command()
@which
@asks
async def confirm(client: Client, *, source: str | None) -> None:
    """Apply held changes of SOURCE, or of all sources.

    A change is held if it would unload more than half of the loaded instances, or if a file still
    exists but declares nothing any more.
    """
    held = await _named(client, source, _waits)
    suspended = await _named(client, None, lambda s: s["suspended"])
    if not held and suspended and source is None:
        names = " and ".join(suspended)
        words = f"{names}: suspended, so no change is applied; `reconciler resume` follows it again"
        raise click.ClickException(words)
    if not held:
        raise click.ClickException("no change waits for confirmation")
    for name in held:
        _print_source(await client.post(_path(name, "confirm"), None))


@click.command()
@which
@asks
async def suspend(client: Client, *, source: str | None) -> None:
    """Stop following SOURCE, or all sources, until `resume`; their records stay."""
    for name in await _named(client, source, lambda s: not s["suspended"]):
        await client.post(_path(name, "suspend"), None)
        click.echo(f"{name} is suspended")


@click.command()
@which
@asks
async def resume(client: Client, *, source: str | None) -> None:
    """Follow SOURCE, or all sources, again."""
    for name in await _named(client, source, lambda s: s["suspended"]):
        _print_source(await client.post(_path(name, "resume"), None))


async def sync_all(client: Client) -> None:
    """Sync all followed sources; sources that cannot be read are skipped."""
    for name in await _named(client, None, lambda s: not s["suspended"]):
        with contextlib.suppress(DaemonError):
            await client.post(_path(name, "sync"), None)


def _waits(source: Any) -> bool:
    """True if a change is held until it is confirmed."""
    return bool(source["unconfirmed"] or (source["commit"] and source["commit"]["held"]))


def short(commit: str | None) -> str | None:
    """The first digits of a commit's hash."""
    return commit[:SHOWN_DIGITS] if commit is not None else None


async def _named(client: Client, source: str | None, wanted: Any) -> list[str]:
    """Names of the selected sources: the one whose name contains `source`, or all `wanted` ones.

    Raises `click.ClickException`.
    """
    found = (await client.get("/api/v1/sources"))["sources"]
    if source is None:
        return [s["name"] for s in found if wanted(s)]
    names = [s["name"] for s in found if source in s["name"]]
    if source in names or len(names) == 1:
        return [source if source in names else names[0]]
    if names:
        raise click.ClickException(
            f"'{source}' matches {' and '.join(names)}; give more of the name"
        )
    raise NotFoundError(f"there is no source '{source}'")


def _path(name: str, what: str) -> str:
    return f"/api/v1/sources/{quote(name, safe='')}/{what}"


def _print_source(source: Any) -> None:
    commit = source["commit"]
    at = f" at {short(commit['applied'])}" if commit and commit["applied"] else ""
    say(f"{source['name']} is followed{at}")
    complain(source)


def complain(source: Any, keys: Sequence[str] = ("not_followed", "held")) -> None:
    """Print the problems of a source to stderr."""
    lines = list(_complaints(source, keys))
    for line in lines[:SHOWN_LINES]:
        say(line, err=True)
    if len(lines) > SHOWN_LINES:
        more = len(lines) - SHOWN_LINES
        click.echo(f"and {more} more; `reconciler sources -o yaml` lists them", err=True)


def _complaints(source: Any, keys: Sequence[str]) -> Iterator[str]:
    if source["message"]:
        attempted = source["commit"] and source["commit"]["attempted"]
        commit = f"commit {short(attempted)}: " if attempted else ""
        yield f"{source['name']}: {commit}{source['message']}"
    for file in source["files"]:
        for error in file["errors"]:
            yield f"{file['path']}:{error['line']}:{error['column']}: {error['message']}"
    for key in keys:
        for name, why in source[key].items():
            yield f"{name}: {why}"


def _time(time: str | None) -> str | None:
    return clock(time) if time is not None else None
