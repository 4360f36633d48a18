"""`top`: the table of `ps`, redrawn until `q` or Ctrl-C.

It uses the terminal's alternate screen, so that the terminal is restored when it ends. If the
daemon becomes unreachable or reports an error, the last table stays with an error line, and the
query is retried.
"""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import click

from reconciler.cli.client import Client, DaemonError, SilentError, UnreachableError, asks
from reconciler.cli.duration import Duration
from reconciler.cli.output import condition
from reconciler.cli.ps import rows, until, used
from reconciler.cli.reconnecting import POLL_SECONDS
from reconciler.core.memory import readable_bytes

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""Escape sequences that switch to the alternate screen and hide the cursor, and back."""

HEADINGS = ("NAME", "STATE", "OWN", "SHARED", "KV", "REQUESTS", "IN/S", "OUT/S", "UNLOAD")


@dataclass(frozen=True)
class Sample:
    """The daemon's responses at one time."""

    at: float
    """Monotonic seconds."""
    node: Any
    rows: Sequence[Any]

    @property
    def tokens(self) -> Mapping[str, tuple[int, int]]:
        """Total prompt and completion tokens by instance."""
        loaded = (row["instance"] for row in self.rows if row["instance"])
        return {one["name"]: (one["prompt_tokens"], one["completion_tokens"]) for one in loaded}


def picture(now: Sample, before: Sample | None) -> list[str]:
    """Lines of the screen; token rates require a sample `before`."""
    loaded = [row["instance"] for row in now.rows if row["instance"]]
    memory = now.node["memory"]
    words = "memory unknown"
    if memory is not None:
        words = (
            f"{readable_bytes(memory['used_bytes'])} of {readable_bytes(memory['budget_bytes'])}"
        )
    requests = sum(one["requests"] for one in loaded)
    head = f"reconciler {now.node['version']}: {len(loaded)} loaded, {requests} requests, {words}"
    table = [HEADINGS, *(_cells(row, now, before) for row in now.rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEADINGS))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table]
    return [head, "", *(line.rstrip() for line in lines)]


def _cells(row: Any, now: Sample, before: Sample | None) -> tuple[str, ...]:
    read, written = _rates(row["name"], now, before)
    instance = row["instance"] or {}
    cells = (
        row["name"],
        condition(row, "Ready")["reason"],
        used("reserved_bytes")(row),
        used("shared_bytes")(row),
        used("kv_bytes")(row),
        instance.get("requests"),
        read,
        written,
        until(row),
    )
    return tuple("-" if cell is None or cell == "" else str(cell) for cell in cells)


def _rates(name: str, now: Sample, before: Sample | None) -> tuple[str | None, str | None]:
    """Prompt and completion tokens per second since the previous sample."""
    if before is None or name not in now.tokens or name not in before.tokens:
        return None, None
    seconds = now.at - before.at
    pairs = zip(now.tokens[name], before.tokens[name], strict=True)
    read, written = (max(0, after - first) / seconds for after, first in pairs)
    return f"{read:.0f}", f"{written:.1f}"


async def _sample(client: Client) -> Sample:
    """Query the daemon. Raises `UnreachableError`, also if it takes longer than `POLL_SECONDS`."""
    try:
        async with asyncio.timeout(POLL_SECONDS):
            node, found = await asyncio.gather(client.get("/api/v1/node"), rows(client))
    except TimeoutError:
        raise SilentError(client.url, POLL_SECONDS) from None
    return Sample(time.monotonic(), node, found)


async def _sample_until(ended: asyncio.Event, client: Client) -> Sample | None:
    """Query the daemon; None once `ended` is set. Raises as `_sample`."""
    sampling, ending = asyncio.ensure_future(_sample(client)), asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait({sampling, ending}, return_when=asyncio.FIRST_COMPLETED)
        return sampling.result() if sampling.done() else None
    finally:
        for task in (sampling, ending):
            task.cancel()
        await asyncio.gather(sampling, ending, return_exceptions=True)


@click.command()
@click.option("--interval", type=Duration(least=0.1), default="2s", help="Time between updates.")
@click.option("--once", is_flag=True, help="Print once and exit; the default if output is a pipe.")
@asks
async def top(client: Client, *, interval: float, once: bool) -> None:
    """Monitor instances, memory, requests and tokens per second, until q or Ctrl-C."""
    now = await _sample(client)
    if once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        click.echo("\n".join(picture(now, None)))
        return
    ended = asyncio.Event()
    with _screen(ended):
        before: Sample | None = None
        problem = ""
        while not ended.is_set():
            _draw([*picture(now, before), *(["", problem] if problem else [])])
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), interval)
            try:
                sample = await _sample_until(ended, client)
            except (UnreachableError, DaemonError) as error:
                problem = error.message
                continue
            if sample is not None:
                before, now, problem = now, sample, ""


def _draw(lines: Sequence[str]) -> None:
    size = shutil.get_terminal_size()
    shown = [line[: size.columns] for line in lines[: size.lines]]
    sys.stdout.write("\x1b[H" + "\x1b[K\r\n".join(shown) + "\x1b[J")
    sys.stdout.flush()


@contextmanager
def _screen(ended: asyncio.Event) -> Iterator[None]:
    """Use the alternate screen; `q`, Ctrl-C and the end of the input set `ended`."""
    import termios
    import tty

    loop, stdin = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(stdin)

    def pressed() -> None:
        if os.read(stdin, 1) in (b"q", b"Q", b""):
            ended.set()

    tty.setcbreak(stdin)
    loop.add_reader(stdin, pressed)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    sys.stdout.write(ENTER)
    try:
        yield
    finally:
        loop.remove_reader(stdin)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
