"""`validate`, `apply`, `delete`, `plan` and `diff`: parse manifests and send their specs."""

import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from reconciler.cli import completing, git_preview
from reconciler.cli.client import Client, asks
from reconciler.cli.git_options import branch_options, following, labelled
from reconciler.cli.output import show_data, yaml_text
from reconciler.cli.printing import say
from reconciler.cli.reconnecting import repeated
from reconciler.cli.records import path as record_path
from reconciler.core.manifest import MAX_BYTES
from reconciler.core.schema import spec_json
from reconciler.core.selection import duplicates
from reconciler.core.snapshot import Declared, ManifestFile, read_file
from reconciler.host import looks
from reconciler.sources.files import read_path
from reconciler.sources.scan import Scanner

files = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    help="File, directory, or - for standard input; repeatable.",
    shell_complete=completing.files,
)


@click.command(epilog="\b\nExample:\n  reconciler validate manifests/*.yaml")
@click.argument("files", nargs=-1, required=True, shell_complete=completing.files)
def validate(files: tuple[str, ...]) -> None:
    """Check manifests without a daemon; print one line per error."""
    read = looks.run(_read(files))
    declared = sum(len(file.declared) for file in read)
    if _complain(read):
        sys.exit(1)
    click.echo(f"{_count(declared, 'record')} in {_count(len(read), 'valid file')}")


@click.command(
    epilog="\b\nExamples:\n"
    "  reconciler apply -f assistant.yaml\n"
    "  kustomize build fleet/studio | reconciler apply -f - --wait"
)
@files
@click.option(
    "--wait", "wait_", is_flag=True, help="Wait until each is loaded, one after the other."
)
@click.option("--dry-run", is_flag=True, help="Print what would be done, as `plan` does.")
@asks
async def apply(client: Client, *, files: tuple[str, ...], wait_: bool, dry_run: bool) -> None:
    """Declare the records of manifests by HTTP; records of watched files are rejected."""
    declared = await _declared(files)
    plan = await client.post("/api/v1/plan", {"apply": _specs(declared)})
    _refuse(plan)
    if dry_run:
        _print_plan(plan)
        return
    new = {change["name"] for change in plan["changes"] if change["before"] is None}
    changed = {change["name"] for change in plan["changes"]}
    query = {"wait": "ready"} if wait_ else {}
    for one in declared:
        wait = {} if one.spec.suspend else query
        await repeated(client, partial(_put, client, one, wait))
        how = "created" if one.name in new else "changed" if one.name in changed else "unchanged"
        click.echo(f"{one.name} {how}")


async def _put(client: Client, declared: Declared, query: Mapping[str, str]) -> None:
    await client.put(record_path(declared.name), {"spec": spec_json(declared.spec)}, **query)


@click.command(
    epilog="\b\nExamples:\n  reconciler delete assistant\n  reconciler delete -f assistant.yaml"
)
@click.argument("names", nargs=-1, shell_complete=completing.names)
@files
@asks
async def delete(client: Client, *, names: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Delete records that were declared by HTTP, and unload their instances."""
    found = [*names, *(one.name for one in await _declared(files, needed=not names))]
    for name in found:
        await client.delete(record_path(name))
        click.echo(f"{name} deleted")


@click.command(
    epilog="\b\nExamples:\n"
    "  reconciler plan\n"
    "  reconciler plan -f fleet/     # exit code 2 if something would change\n"
    "  reconciler plan --git https://git.example.com/fleet.git --git-ref bigger-context\n"
    "  reconciler plan --git . --git-ref HEAD --git-base main --label memory_gb=64"
)
@files
@branch_options
@click.option("--git-base", help="With --label: compare with this branch.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY=VALUE",
    help="Evaluate the branch for a node with this label, offline; repeatable.",
)
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    help="Form.",
)
@asks
async def plan(
    client: Client,
    *,
    files: tuple[str, ...],
    form: str,
    git: str | None,
    git_base: str | None,
    labels: tuple[str, ...],
    **git_options: Any,
) -> None:
    """Show the pending actions of the daemon, or those after a change.

    The change is either manifests, also those of watched files, or a branch of a repository. With
    --label, the branch is evaluated for a node with these labels, offline.
    """
    described = labelled(labels)
    if git is None and (described or git_base is not None):
        raise click.UsageError("--label and --git-base require --git")
    if git_base is not None and not described:
        raise click.UsageError(
            "--git-base requires --label; a daemon compares with the branch that it follows"
        )
    if git is not None and files:
        raise click.UsageError("give either files or a branch")
    followed = following(git, **git_options) if git is not None else None
    if followed is not None and described:
        base = following(git, **git_options | {"git_ref": git_base}) if git and git_base else None
        changes, others = git_preview.compare(
            await git_preview.read(base) if base is not None else None,
            await git_preview.read(followed),
            described,
        )
        _print_branch(changes, others, form)
        if changes:
            sys.exit(2)
        return
    if followed is not None:
        body = await git_preview.specs(client, followed, await git_preview.read(followed))
        answer = await client.post("/api/v1/plan", body)
    elif files:
        answer = await client.post("/api/v1/plan", {"declare": _specs(await _declared(files))})
    else:
        answer = await client.get("/api/v1/plan")
    if form != "text":
        show_data(answer, form)
    _refuse(answer)
    if form == "text":
        _print_plan(answer)
    print_source_errors(answer["source_errors"])
    if answer["source_errors"] and not (files or followed):
        sys.exit(1)
    if answer["changes"] or any(action["action"] != "Hold" for action in answer["actions"]):
        sys.exit(2)


def print_source_errors(errors: Sequence[Any]) -> None:
    """Print the errors of sources to stderr."""
    for one in errors:
        place = f"{one['file']}:{one['line']}:{one['column']}" if one["file"] else one["source"]
        say(f"{place}: {one['message']}", err=True)


def _print_branch(changes: Sequence[Any], others: Mapping[str, str], form: str) -> None:
    """Print the changes that a branch makes to a node with given labels."""
    if form != "text":
        show_data({"changes": changes, "not_selected": others}, form)
        return
    if not changes:
        click.echo("nothing would change")
    for change in changes:
        for line in _diff(change):
            _print_line(line)
    _print_others(others)


def _print_others(others: Mapping[str, str]) -> None:
    for name, why in others.items():
        say(f"{name} is not for this node: {why}", err=True)


@click.command()
@files
@asks
async def diff(client: Client, *, files: tuple[str, ...]) -> None:
    """Show how these manifests would change records, including those of watched files."""
    answer = await client.post("/api/v1/plan", {"declare": _specs(await _declared(files))})
    for change in answer["changes"]:
        for line in _diff(change):
            _print_line(line)
    _refuse(answer)
    if answer["changes"]:
        sys.exit(2)


def _print_line(line: str) -> None:
    say(line, fg={"+": "green", "-": "red", "@": "cyan"}.get(line[0]))


def _diff(change: Any) -> Iterator[str]:
    before, after = (
        yaml_text(change[key]).splitlines() if change[key] is not None else []
        for key in ("before", "after")
    )
    name = change["name"]
    return difflib.unified_diff(before, after, f"{name} (now)", f"{name} (then)", lineterm="")


MARKS = {"Load": "+", "Attach": "+", "Reconfigure": "~", "Reload": "~", "Unload": "-"}
COLOURS = {"+": "green", "~": "yellow", "-": "red", "!": "red"}


def _print_plan(answer: Any) -> None:
    """Print a line for each action: action, record, reason."""
    if not answer["actions"]:
        click.echo("nothing to do: everything is as declared")
    width = max((len(action["name"]) for action in answer["actions"]), default=0)
    for action in answer["actions"]:
        mark = MARKS.get(action["action"], "!" if action["problem"] else " ")
        under_way = " (under way)" if action["running"] else ""
        line = f"{mark} {action['action']:11} {action['name']:{width}}  {action['message']}"
        say(line + under_way, fg=COLOURS.get(mark))
    _print_others(answer["not_selected"])


def _refuse(answer: Any) -> None:
    """Raise `click.ClickException` if a spec would be rejected."""
    if answer["refused"]:
        raise click.ClickException("\n".join(one["message"] for one in answer["refused"]))


def _specs(declared: Sequence[Declared]) -> list[dict[str, Any]]:
    return [{"name": one.name, "spec": spec_json(one.spec)} for one in declared]


async def _declared(files: Sequence[str], *, needed: bool = True) -> list[Declared]:
    """Records that files declare. Exits if a file is invalid or a name is declared twice."""
    if not files and not needed:
        return []
    if not files:
        raise click.UsageError("give a file, a directory, or - with -f")
    read = await _read(files)
    if _complain(read):
        sys.exit(1)
    if not any(file.declared for file in read):
        names = ", ".join(file.path for file in read)
        raise click.ClickException(f"no record is declared in {names}")
    found: dict[str, Declared] = {}
    for file in read:
        for one in file.declared:
            if one.name in found:
                raise click.ClickException(
                    f"{file.path}:{one.line}: '{one.name}' is declared twice"
                )
            found[one.name] = one
    return list(found.values())


async def _read(files: Sequence[str]) -> list[ManifestFile]:
    """Read files and directories as a daemon does. Raises `ClickException`."""
    read = []
    for name in files:
        if name == "-":
            read.append(read_file("<stdin>", sys.stdin.buffer.read(MAX_BYTES + 1)))
        elif os.path.isdir(name):  # noqa: PTH112, ASYNC240  nothing else runs
            snapshot = await Scanner(Path(name), name).scan()
            if snapshot.unreadable is not None:
                raise click.ClickException(snapshot.unreadable)
            if not snapshot.files:
                raise click.ClickException(f"{name} has no file that ends in .yaml, .yml or .json")
            read += [replace(f, path=os.path.join(name, f.path)) for f in snapshot.files]  # noqa: PTH118
        else:
            read.append(read_path(Path(name)))
    return read


def _complain(read: Sequence[ManifestFile]) -> bool:
    """Print the errors, one line each. True if there are any."""
    for file in read:
        for flaw in file.flaws:
            position = flaw.position
            say(f"{file.path}:{position.line}:{position.column}: {flaw.message}", err=True)
        for ignored in file.ignored:
            say(f"{file.path}: ignored, {ignored}", err=True)
    twice = duplicates(read)
    for name, why in twice.items():
        say(f"'{name}' is {why}", err=True)
    return bool(twice) or any(not file.valid for file in read)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
