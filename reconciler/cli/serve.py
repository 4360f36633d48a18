"""`reconciler serve`: its options. The daemon is imported when the command runs."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from reconciler.cli import HOME
from reconciler.cli.access import Host, Origin
from reconciler.cli.duration import Bound, Duration
from reconciler.cli.git_options import followed, followings, label, labelled
from reconciler.cli.sizes import MemoryBudget, SizeOrOff, WiredLimit
from reconciler.core.memory import Budget, MemoryPolicy

LEAST_STALL_SECONDS = 0.01
"""Minimum stall budget: a token of a small model takes about as long."""

LEAST_PROBE_SECONDS = 0.1
"""Minimum probe interval: a healthy worker may need this long to answer."""


def _hub_cache() -> Path:
    """The cache directory of huggingface_hub, from its documented variables."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()


def _prompt_cache(platform: str = sys.platform) -> Path:
    """The directory of prompts in the user's cache directory, as the system's conventions say.

    On macOS, backups exclude ~/Library/Caches.
    """
    if platform == "darwin":
        caches = "~/Library/Caches"
    else:
        caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "reconciler" / "prompts"


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Make imports of this package raise ImportError within the context."""
    modules: dict[str, Any] = sys.modules
    imported = modules.get(package)
    modules[package] = None
    try:
        yield
    finally:
        del modules[package]
        if imported is not None:
            modules[package] = imported


@click.command()
@click.option(
    "--manifests",
    type=click.Path(path_type=Path),
    default=HOME / "manifests",
    envvar="RECONCILER_MANIFESTS",
    show_envvar=True,
    help="Directory of manifests to follow; ignored with --git, unless given explicitly.",
)
@followed
@click.option(
    "--suspend-sources",
    is_flag=True,
    envvar="RECONCILER_SUSPEND_SOURCES",
    show_envvar=True,
    help="Follow no source until `reconciler resume`; existing records stay.",
)
@label
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    multiple=True,
    default=[HOME / "models"],
    envvar="RECONCILER_MODELS",
    show_envvar=True,
    help="Directory of models, as PUBLISHER/NAME; repeatable.",
)
@click.option(
    "--hub-cache",
    type=click.Path(path_type=Path),
    default=_hub_cache,
    envvar="RECONCILER_HUB_CACHE",
    show_envvar=True,
    show_default="the cache of huggingface_hub",
    help="Cache of Hugging Face's tools, from which models can also be loaded.",
)
@click.option(
    "--lm-studio",
    type=click.Path(path_type=Path),
    default=Path("~/.lmstudio").expanduser(),
    envvar="RECONCILER_LM_STUDIO",
    show_envvar=True,
    help="LM Studio's directory, from which models can also be loaded.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=HOME / "state",
    envvar="RECONCILER_STATE",
    show_envvar=True,
    help="Directory of the daemon's database.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="RECONCILER_HOST",
    show_envvar=True,
    help="Address to listen on; any other than loopback requires a token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=1234,
    envvar="RECONCILER_PORT",
    show_envvar=True,
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="RECONCILER_TOKEN_FILE",
    show_envvar=True,
    help="File with the token that clients must send.",
)
@click.option(
    "--allow-origin",
    "allow_origins",
    type=Origin(),
    multiple=True,
    envvar="RECONCILER_ALLOW_ORIGIN",
    show_envvar=True,
    help="Web page that may use the daemon: https://HOST:PORT; repeatable. * requires a token.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    type=Host(),
    multiple=True,
    envvar="RECONCILER_ALLOW_HOST",
    show_envvar=True,
    help="Additional host name accepted in requests, such as host.docker.internal or *.local; "
    "repeatable.",
)
@click.option(
    "--no-page",
    is_flag=True,
    envvar="RECONCILER_NO_PAGE",
    show_envvar=True,
    help="Disable the live page at /; the API stays enabled.",
)
@click.option(
    "--jit",
    is_flag=True,
    envvar="RECONCILER_JIT",
    show_envvar=True,
    help="Load a model at the first request for it; unload it after an hour without one.",
)
@click.option(
    "--probe-interval",
    type=Duration(least=LEAST_PROBE_SECONDS),
    default="30s",
    envvar="RECONCILER_PROBE_INTERVAL",
    show_envvar=True,
    help="Time between probes: a hanging worker is found within two; idle ones generate a token.",
)
@click.option(
    "--stall-budget",
    type=Bound(least=LEAST_STALL_SECONDS),
    default="0.25s",
    envvar="RECONCILER_STALL_BUDGET",
    show_envvar=True,
    help="Longest pause of a stream while prompts are read, or 8 usual ones if longer; or off.",
)
@click.option(
    "--memory-budget",
    type=MemoryBudget(),
    default="100%",
    envvar="RECONCILER_MEMORY_BUDGET",
    show_envvar=True,
    help="Memory for all models: a size, or a share of the maximum of MLX and the system.",
)
@click.option(
    "--memory-policy",
    type=click.Choice(["wait", "evict-idle"]),
    default="wait",
    envvar="RECONCILER_MEMORY_POLICY",
    show_envvar=True,
    help="If memory is short: wait, or unload idle instances of lower priority.",
)
@click.option(
    "--wired-limit",
    type=WiredLimit(),
    default="off",
    envvar="RECONCILER_WIRED_LIMIT",
    show_envvar=True,
    help="Memory that a worker wires: off, the size recommended by Metal, or a size.",
)
@click.option(
    "--prompt-cache",
    type=click.Path(path_type=Path, file_okay=False),
    default=_prompt_cache,
    envvar="RECONCILER_PROMPT_CACHE",
    show_envvar=True,
    show_default="a folder of the user's cache directory",
    help="Directory of the KV caches of earlier prompts, which later prompts can begin with.",
)
@click.option(
    "--prompt-cache-size",
    type=SizeOrOff(),
    default="8GiB",
    envvar="RECONCILER_PROMPT_CACHE_SIZE",
    show_envvar=True,
    help="Maximum size of that directory; off keeps no prompts on disk and deletes those there.",
)
@click.option(
    "--spare-workers",
    type=click.IntRange(0, 1),
    default=1,
    envvar="RECONCILER_SPARE_WORKERS",
    show_envvar=True,
    help="Workers started in advance; 0 saves memory, but loads take a second longer.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar="RECONCILER_LOG_LEVEL",
    show_envvar=True,
    help="Minimum level of log lines.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="RECONCILER_LOG_FORMAT",
    show_envvar=True,
    help="Format of log lines: text, or a JSON object per line.",
)
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="RECONCILER_LOG_FILE",
    show_envvar=True,
    help="Log to this file instead of stderr; five files of 10 MB are kept.",
)
def serve(
    manifests: Path,
    models: tuple[Path, ...],
    hub_cache: Path,
    lm_studio: Path,
    state: Path,
    host: str,
    port: int,
    token_file: Path | None,
    *,
    allow_origins: tuple[str, ...],
    allow_hosts: tuple[str, ...],
    no_page: bool,
    jit: bool,
    probe_interval: float,
    stall_budget: float,
    memory_budget: Budget,
    memory_policy: str,
    wired_limit: str,
    prompt_cache: Path,
    prompt_cache_size: int,
    spare_workers: int,
    log_level: str,
    log_format: str,
    log_file: Path | None,
    git: tuple[str, ...],
    git_allow_rewind: bool,
    suspend_sources: bool,
    labels: tuple[str, ...],
    **git_options: Any,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C.

    It prints its address to stdout, and logs to stderr.
    """
    # Imported objects stay alive: garbage collection would add a tenth to the time of the import.
    gc.disable()
    with _without("rich"):  # structlog imports it for tracebacks, which this log does not use
        from reconciler.cli.bootstrap import Options, run
        from reconciler.engine.prompt_disk import PromptDisk

    gc.freeze()
    gc.enable()

    source = click.get_current_context().get_parameter_source("manifests")
    unnamed = source is ParameterSource.DEFAULT
    run(
        Options(
            None if git and unnamed else manifests,
            models,
            hub_cache,
            lm_studio,
            state,
            host,
            port,
            token_file,
            jit,
            log_level,
            log_format,
            log_file,
            followings(git, git_options, allow_rewind=git_allow_rewind),
            labelled(labels),
            suspend_sources,
            probe_interval,
            wired_limit,
            MemoryPolicy(memory_budget, evict_idle=memory_policy == "evict-idle"),
            stall_budget=stall_budget,
            prompts=PromptDisk(prompt_cache.absolute(), prompt_cache_size),
            spare_worker=spare_workers == 1,
            allow_origins=allow_origins,
            allow_hosts=allow_hosts,
            serves_page=not no_page,
        )
    )
