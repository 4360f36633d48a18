"""Preview of a branch: fetch it into a temporary directory and read its manifests."""

import tempfile
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from reconciler.cli.client import Client
from reconciler.core.schema import spec_json
from reconciler.core.selection import select
from reconciler.core.snapshot import Snapshot
from reconciler.sources.git import Following, GitSource


async def read(following: Following) -> Snapshot:
    """Read a branch as a daemon would. Raises `click.ClickException`."""
    with tempfile.TemporaryDirectory(prefix="reconciler-plan-") as directory:
        source = GitSource(following, Path(directory), lambda: datetime.now(UTC))
        async with aclosing(source.snapshots()) as snapshots:
            snapshot = await anext(snapshots)
    if snapshot.unreadable is not None:
        raise click.ClickException(f"{following.name}: {snapshot.unreadable}")
    return snapshot


async def specs(client: Client, following: Following, snapshot: Snapshot) -> dict[str, Any]:
    """Body of a plan request in which the branch replaces the source that the daemon follows."""
    found = (await client.get("/api/v1/sources"))["sources"]
    folder = following.name.partition("?ref=")[0]
    followed = [s["name"] for s in found if s["name"].partition("?ref=")[0] == folder]
    records = [
        {
            "name": one.name,
            "spec": spec_json(one.spec),
            "file": file.path,
            "line": one.line,
        }
        for file in snapshot.files
        for one in file.declared
    ]
    return {"source": {"name": (followed or [following.name])[0], "records": records}}


def compare(
    base: Snapshot | None, branch: Snapshot, labels: Mapping[str, str]
) -> tuple[list[Any], dict[str, str]]:
    """Compare two branches for a node with these labels.

    Returns the changes, in a plan's format, and the reasons by name of records that the node does
    not select.
    """
    before, _ = _selected(base, labels) if base is not None else ({}, {})
    after, others = _selected(branch, labels)
    changes = [
        {"name": name, "before": before.get(name), "after": after.get(name)}
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    return changes, others


def _selected(
    snapshot: Snapshot, labels: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Specs by name. Raises `click.ClickException` if a name is declared twice for one node."""
    selection = select(snapshot, labels)
    for name, why in selection.flagged.items():
        raise click.ClickException(f"'{name}' is {why}")
    specs = {name: spec_json(one.spec) for name, (_, one) in selection.followed.items()}
    return specs, dict(selection.not_selected)
