"""A load, with a bar of the weights read where somebody watches."""

import sys
from typing import Any

from reconciler.cli.client import Client, DaemonError


async def loaded(client: Client, body: dict[str, Any]) -> Any:
    """Load by HTTP; the answer. Raises `DaemonError`."""
    if not sys.stderr.isatty():
        return await client.post("/api/v1/models/load", body)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waiting", total=None)
        async for kind, data in client.events("POST", "/api/v1/models/load", body):
            if kind == "result":
                return data
            if kind == "error":
                raise DaemonError(500, data["error"]["message"])
            bar.update(
                task,
                description=data["phase"].replace("_", "-"),
                total=data["bytes_total"],
                completed=data["bytes_read"] or 0,
            )
    raise DaemonError(500, "the daemon ended before the model was loaded")
