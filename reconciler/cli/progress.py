"""Progress bars on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from reconciler.cli.client import Client, ConnectionLostError, error_of
from reconciler.cli.reconnecting import repeated

Update = Callable[..., None]
"""Called with the bytes done, the total, and the current activity."""


@contextmanager
def watched(what: str) -> Iterator[Update]:
    """Show a progress bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int | None, total: int | None, doing: str = what) -> None:
            bar.update(task, description=doing, completed=done or 0, total=total)

        yield update


async def loaded(client: Client, body: dict[str, Any]) -> Any:
    """Load by HTTP with a progress bar, and return the response. Raises `DaemonError`."""
    with watched("waiting") as update:
        return await repeated(client, lambda: _loaded(client, body, update))


async def _loaded(client: Client, body: dict[str, Any], update: Update) -> Any:
    async for kind, data in client.events("POST", "/api/v1/models/load", body):
        if kind == "result":
            return data
        if kind == "error":
            raise error_of(data)
        phase = data["phase"].replace("_", "-")
        update(data["bytes_read"], data["bytes_total"], phase)
    raise ConnectionLostError(client.url)
