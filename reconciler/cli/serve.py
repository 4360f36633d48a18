"""`reconciler serve`: its options; what it runs is imported when it is run."""

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
from reconciler.cli.duration import Duration
from reconciler.cli.git_options import followed, followings, label, labelled
from reconciler.cli.sizes import MemoryBudget, WiredLimit
from reconciler.core.memory import Budget, MemoryPolicy

LEAST_PROBE_SECONDS = 0.1
"""Below it a look is shorter than what a worker may take to answer."""


def _hub_cache() -> Path:
    """Where huggingface_hub keeps its cache, by the variables that it documents."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE", f"{home}/hub")).expanduser()


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Make an import of this package raise ImportError."""
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
    help="Directory of manifests to follow; with --git only where it is named too.",
)
@followed
@click.option(
    "--suspend-sources",
    is_flag=True,
    envvar="RECONCILER_SUSPEND_SOURCES",
    show_envvar=True,
    help="Follow no source until `reconciler resume`; what is declared already stays.",
)
@label
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    multiple=True,
    default=[HOME / "models"],
    envvar="RECONCILER_MODELS",
    show_envvar=True,
    help="Directory of models, as PUBLISHER/NAME; may be given several times.",
)
@click.option(
    "--hub-cache",
    type=click.Path(path_type=Path),
    default=_hub_cache,
    envvar="RECONCILER_HUB_CACHE",
    show_envvar=True,
    show_default="the cache of huggingface_hub",
    help="Cache of Hugging Face's tools, whose models can be loaded too.",
)
@click.option(
    "--lm-studio",
    type=click.Path(path_type=Path),
    default=Path("~/.lmstudio").expanduser(),
    envvar="RECONCILER_LM_STUDIO",
    show_envvar=True,
    help="LM Studio's directory, whose models can be loaded too.",
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=HOME / "state",
    envvar="RECONCILER_STATE",
    show_envvar=True,
    help="Directory of the daemon's own database.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    envvar="RECONCILER_HOST",
    show_envvar=True,
    help="Address to listen on; any but loopback requires a token.",
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
    help="Web page that may use the daemon, as https://HOST:PORT; several times. * takes a token.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    type=Host(),
    multiple=True,
    envvar="RECONCILER_ALLOW_HOST",
    show_envvar=True,
    help="Name by which it may be asked too, such as host.docker.internal or *.local; several "
    "times.",
)
@click.option(
    "--no-page",
    is_flag=True,
    envvar="RECONCILER_NO_PAGE",
    show_envvar=True,
    help="Serve no live page at / for browsers; the API stays.",
)
@click.option(
    "--jit",
    is_flag=True,
    envvar="RECONCILER_JIT",
    show_envvar=True,
    help="Load a model at the first request for it; it goes after an hour without one.",
)
@click.option(
    "--probe-interval",
    type=Duration(least=LEAST_PROBE_SECONDS),
    default="30s",
    envvar="RECONCILER_PROBE_INTERVAL",
    show_envvar=True,
    help="A worker that hangs is found within two of these; an idle one generates a token in each.",
)
@click.option(
    "--memory-budget",
    type=MemoryBudget(),
    default="100%",
    envvar="RECONCILER_MEMORY_BUDGET",
    show_envvar=True,
    help="What all models may take: a size, or a share of what MLX and the system offer.",
)
@click.option(
    "--memory-policy",
    type=click.Choice(["wait", "evict-idle"]),
    default="wait",
    envvar="RECONCILER_MEMORY_POLICY",
    show_envvar=True,
    help="Where there is no room: wait, or unload idle instances of lower priority.",
)
@click.option(
    "--wired-limit",
    type=WiredLimit(),
    default="off",
    envvar="RECONCILER_WIRED_LIMIT",
    show_envvar=True,
    help="Memory that a worker keeps from being paged out: off, recommended by Metal, or a size.",
)
@click.option(
    "--spare-workers",
    type=click.IntRange(0, 1),
    default=1,
    envvar="RECONCILER_SPARE_WORKERS",
    show_envvar=True,
    help="Workers started before they are needed; 0 saves memory, and loads take a second longer.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    envvar="RECONCILER_LOG_LEVEL",
    show_envvar=True,
    help="Least level of the log lines on stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="RECONCILER_LOG_FORMAT",
    show_envvar=True,
    help="Log lines for people, or a JSON object in each for programs.",
)
@click.option(
    "--log-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="RECONCILER_LOG_FILE",
    show_envvar=True,
    help="Log to this file in place of stderr; kept are five of 10 MB.",
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
    memory_budget: Budget,
    memory_policy: str,
    wired_limit: str,
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

    One line on stdout names its address; the log is on stderr.
    """
    # What is imported stays: looking for garbage in it takes a tenth of the time that it takes.
    gc.disable()
    with _without("rich"):  # structlog imports it for tracebacks that no log here has
        from reconciler.cli.bootstrap import Options, run

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
            spare_worker=spare_workers == 1,
            allow_origins=allow_origins,
            allow_hosts=allow_hosts,
            serves_page=not no_page,
        )
    )
