"""Hub searches of the daemon. Each runs in a separate process, with limited concurrency."""

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE

import msgspec

from reconciler.core.errors import LoadError, Problem, Reason
from reconciler.host import children

SECONDS = 30.0
"""Time limit of a search, including its wait for other searches."""

AT_ONCE = 2
"""Maximum concurrent searches."""

MAX_BYTES = 4_000_000
"""Maximum size of a result."""


class HubModel(msgspec.Struct, frozen=True):
    """A model on the hub."""

    model: str
    size_bytes: int | None
    """Size of the weights; None if the hub does not report it."""
    downloads: int
    """Number of downloads in the last 30 days."""
    gated: bool
    updated_at: str | None


class _Line(msgspec.Struct):
    models: list[HubModel] = []
    error: str | None = None
    message: str = ""


class HubSearch:
    """Runs searches. Used on the event loop only."""

    def __init__(self) -> None:
        self._running = asyncio.Semaphore(AT_ONCE)

    async def search(self, query: str, limit: int, library: str | None) -> list[HubModel]:
        """Find matching models, most downloaded first; `library` filters by that tag.

        Raises `LoadError` `Offline` or `DownloadFailed`.
        """
        try:
            async with asyncio.timeout(SECONDS), self._running:
                line = await _ask(query, str(limit), *([library] if library else []))
            answer = msgspec.json.decode(line, type=_Line)
        except TimeoutError:
            raise _failed(f"the hub did not answer within {SECONDS:g} s") from None
        except (OSError, ValueError):
            raise _failed("the search ended without an answer") from None
        if answer.error is not None:
            reason = Reason.OFFLINE if answer.error == "offline" else Reason.DOWNLOAD_FAILED
            raise LoadError(Problem(reason, answer.message, permanent=False))
        return answer.models


async def _ask(*words: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *children.python("reconciler.models.search", *words),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        limit=MAX_BYTES,
        start_new_session=True,
        env=children.for_fetch(os.environ),
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  pipes
    try:
        return await process.stdout.readline()
    finally:
        process.stdin.close()  # ends the process
        await process.wait()


def _failed(words: str) -> LoadError:
    return LoadError(Problem(Reason.DOWNLOAD_FAILED, words, permanent=False))
