"""`reconciler serve`: create the daemon's components and run them until a signal."""

import asyncio
import math
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import structlog
from aiohttp import web

from reconciler.api.app import build
from reconciler.api.connections import Connections, connections_within, raise_limit
from reconciler.api.encode import whole
from reconciler.api.origins import is_loopback
from reconciler.api.server import listen
from reconciler.cli import HOME, log
from reconciler.cli.access import check_pages
from reconciler.cli.client import read_token
from reconciler.cli.privacy import keep_state_private, warn_of_public_token
from reconciler.controller import Controller, Source
from reconciler.controller.clock import SystemClock
from reconciler.core.memory import MemoryPolicy
from reconciler.engine import sockets
from reconciler.engine.engine import PROBE_SECONDS, Engine
from reconciler.engine.prompt_disk import PromptDisk
from reconciler.host import boot, looks, node
from reconciler.host.run import run_program
from reconciler.models.catalog import Catalog
from reconciler.models.places import Directory, HubCache, LMStudio
from reconciler.models.read_ahead import ReadAhead
from reconciler.sources.directory import DirectorySource
from reconciler.sources.git import Following, GitSource
from reconciler.store import Store, StoreError, UnwritableError

CLEAR_SECONDS = 5.0
"""Time to delete kept prompts before the daemon starts without them."""

SHUTDOWN_SECONDS = 2.0
"""Time for requests that a shutdown interrupts to send their response."""

STOP_SECONDS = 50.0
"""Deadline after the first signal: running requests have 30 s to end, and workers 10 s."""

AT_ONCE_SECONDS = 13.0
"""Deadline after the second signal."""

EX_SOFTWARE = 70
"""Exit code if a deadline ends the process; from sysexits.h."""


@dataclass(frozen=True)
class Options:
    """Options from the command line or the environment."""

    manifests: Path | None
    models: tuple[Path, ...]
    hub_cache: Path
    lm_studio: Path
    state: Path
    host: str
    port: int
    token_file: Path | None
    jit: bool
    log_level: str
    log_format: str = "text"
    log_file: Path | None = None
    git: Sequence[Following] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels given by the user, in addition to the machine's own."""
    suspend_sources: bool = False
    probe_interval: float = PROBE_SECONDS
    """Seconds between two probes of a worker."""
    wired_limit: str = "off"
    memory: MemoryPolicy = field(default_factory=MemoryPolicy)
    stall_budget: float = math.inf
    """Maximum gap in a stream while prompts are prefilled [s]; infinite: none."""
    prompts: PromptDisk | None = None
    """Prompts on disk; None: none are kept, and none are deleted."""
    spare_worker: bool = True
    """True if a worker is started before it is needed."""
    allow_origins: Sequence[str] = ()
    """Origins of web pages that may use the daemon; see `Access`."""
    allow_hosts: Sequence[str] = ()
    """Host names accepted in requests; see `Access`."""
    serves_page: bool = True
    """True if browsers get the live page."""


def run(options: Options) -> None:
    """Run the daemon. Raises `click.ClickException`, with one line, if it cannot start."""
    _configure_log(options)
    _check_names(options)
    token = _token(options)
    for directory in (options.manifests, *options.models):
        if directory is not None and directory.is_relative_to(HOME):
            directory.mkdir(parents=True, exist_ok=True)
    listener = _listen(options)
    with listener:
        keep_state_private(options.state, os.geteuid())
        try:
            store = Store(options.state)
        except StoreError as error:
            raise click.ClickException(str(error)) from None
        try:
            run_directory = sockets.prepare(options.state)
        except OSError as error:
            store.close()
            message = f"cannot create the directory of the workers' sockets: {error}"
            raise click.ClickException(message) from None
        try:
            looks.run(_serve(options, token, listener, store, run_directory))
        except UnwritableError as error:
            raise click.ClickException(error.problem.message) from None
        finally:
            store.close()
            sockets.remove(run_directory)


async def _serve(
    options: Options, token: str | None, listener: socket.socket, store: Store, run_directory: Path
) -> None:
    connections = Connections(connections_within(raise_limit()))  # before workers inherit the limit
    stop, at_once = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        """Stop; at a second signal, at once. A watchdog ends the process if something hangs."""
        seconds = AT_ONCE_SECONDS if stop.is_set() else STOP_SECONDS
        watchdog = threading.Timer(seconds, os._exit, (EX_SOFTWARE,))
        watchdog.daemon = True
        watchdog.start()
        if stop.is_set():
            at_once.set()
        stop.set()

    asyncio.get_running_loop().set_exception_handler(log.of_loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    sources: list[Source] = [GitSource(f, options.state, SystemClock().utc) for f in options.git]
    if options.manifests is not None:
        sources.insert(0, DirectorySource(options.manifests))
    if options.suspend_sources:
        for source in sources:
            store.note_suspended(source.name, suspended=True)
    controller = Controller(
        store,
        Catalog(
            [
                *map(Directory, options.models),
                LMStudio(options.lm_studio),
                HubCache(options.hub_cache),
            ]
        ),
        lambda on_death: Engine(
            run_directory,
            on_death,
            options.probe_interval,
            options.wired_limit,
            options.stall_budget,
            spare=options.spare_worker,
            prompts=options.prompts,
        ),
        sources,
        hub_cache=options.hub_cache,
        jit=options.jit,
        labels=node.labels(node.facts(run_program), options.labels),
        boot_id=boot.boot_id(run_program),
        memory=options.memory,
        read_ahead=ReadAhead(),
    )
    app = build(
        controller,
        options.host,
        token,
        origins=options.allow_origins,
        hosts=options.allow_hosts,
        serves_page=options.serves_page,
    )
    runner = web.AppRunner(
        app,
        shutdown_timeout=SHUTDOWN_SECONDS,
        handler_cancellation=True,  # a client that disconnects frees its resources
    )
    await runner.setup()
    await _delete_prompts(options.prompts)
    await controller.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, controller.look_at_sources)
    server = await listen(runner, listener, connections)
    click.echo(f"reconciler is listening on {_url(listener)}")
    await stop.wait()
    await controller.close(at_once)
    server.close()
    await runner.cleanup()


async def _delete_prompts(prompts: PromptDisk | None) -> None:
    """Delete the prompts on disk if none are to be kept."""
    if prompts is None or prompts.most_bytes:
        return
    try:
        await looks.look(prompts.clear, seconds=CLEAR_SECONDS)
    except (OSError, TimeoutError) as error:
        path, reason = str(prompts.root), str(error)
        structlog.get_logger().warning("kept prompts were not deleted", path=path, reason=reason)


def _listen(options: Options) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        address = f"{options.host}:{options.port}"
        raise click.ClickException(
            f"cannot listen on {address}: {error.strerror}; choose another port with --port"
        ) from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _token(options: Options) -> str | None:
    if options.token_file is None:
        if not is_loopback(options.host):
            raise click.ClickException(
                f"listening on {options.host} lets others load models here; "
                "require a token with --token-file"
            )
        check_pages(options.allow_origins, options.token_file)
        return None
    token = read_token(options.token_file)
    warn_of_public_token(options.token_file)
    return token


def _check_names(options: Options) -> None:
    """Raise `click.ClickException` if a directory's name is not UTF-8: JSON cannot hold it."""
    prompts = options.prompts.root if options.prompts else None
    places = (options.state, options.hub_cache, options.lm_studio, *options.models)
    for place in (*places, options.manifests, prompts):
        try:
            str(place).encode()
        except UnicodeEncodeError:
            shown = whole(str(place))
            message = f"the name of {shown} is not UTF-8; rename it, or use another directory"
            raise click.ClickException(message) from None


def _configure_log(options: Options) -> None:
    file = options.log_file
    if file is not None and file.is_fifo():  # opening it waits for a reader
        raise click.ClickException(f"cannot write log file {file}: it is a FIFO; name another file")
    try:
        log.configure(options.log_level, options.log_format, options.log_file)
    except OSError as error:
        message = f"cannot write log file {options.log_file}: {error.strerror}"
        raise click.ClickException(message) from None
