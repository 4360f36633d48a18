"""`service install`, `uninstall` and `status`."""

import os
import platform
import pwd
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click
import psutil

from reconciler.cli.access import check_pages
from reconciler.cli.serve import serve
from reconciler.host import children
from reconciler.host.run import run_program
from reconciler.service.job import Job, Service, ServiceError, kept
from reconciler.service.launchd import Launchd
from reconciler.service.systemd import Systemd

NOT_RUNNING, NOT_INSTALLED = 3, 4
"""Exit codes of `status`, as in `systemctl status`."""

system_option = click.option(
    "--system",
    is_flag=True,
    help="Use the system's service, started at boot; requires root. Fleets of Macs need it: macOS' "
    "local-network privacy makes agents unreachable.",
)


@click.group()
def service() -> None:
    """Run the daemon as a service: launchd on macOS, systemd on Linux."""


@service.command(
    epilog="\b\nExamples:\n"
    "  reconciler service install\n"
    "  sudo reconciler service install --system -- --host 0.0.0.0 --token-file /etc/token"
)
@system_option
@click.option("--print", "only_print", is_flag=True, help="Print the file; change nothing.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVE-OPTION]...")
def install(*, system: bool, only_print: bool, options: tuple[str, ...]) -> None:
    """Write the service's file and start it; options after -- are passed to `serve`."""
    # Reject options that `serve` would reject before anything is written.
    with serve.make_context("serve", list(options)) as context:
        check_pages(context.params["allow_origins"], context.params["token_file"])
    found, job = _service(system=system), _job(options, system=system)
    if only_print:
        click.echo(found.text(job), nl=False)
        return
    _need_root(system=system)
    try:
        changed = found.install(job)
    except (ServiceError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{found.file} {'is written, and started' if changed else 'is unchanged and running'}"
    )
    if sys.platform == "linux" and not system:
        click.echo("the service ends when you log out; to keep it running: loginctl enable-linger")


@service.command()
@system_option
def uninstall(*, system: bool) -> None:
    """Stop the service and remove its file; records and state stay."""
    _need_root(system=system)
    found = _service(system=system)
    try:
        there = found.uninstall()
    except (ServiceError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{found.file} {'is removed' if there else 'does not exist'}")


@service.command()
@system_option
def status(*, system: bool) -> None:
    """Show whether the service runs; exit code 3 if it does not, 4 if it is not installed."""
    state = _service(system=system).state()
    click.echo(f"kind:      {state.kind}")
    click.echo(f"file:      {state.file if state.installed else 'not installed'}")
    if state.pid is not None:
        click.echo(f"running:   process {state.pid}{_since(state.pid)}")
        return
    click.echo("running:   no")
    if state.last_exit is not None:
        click.echo(f"last exit: {state.last_exit}")
    sys.exit(NOT_RUNNING if state.installed else NOT_INSTALLED)


def _since(pid: int) -> str:
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        return ""
    return f" since {datetime.fromtimestamp(started).astimezone():%Y-%m-%d %H:%M:%S}"


def _service(*, system: bool) -> Service:
    home = Path.home()
    if platform.system() == "Darwin":
        return Launchd(run_program, home, os.getuid(), system=system)
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return Systemd(run_program, configuration, system=system)


def _job(options: Sequence[str], *, system: bool) -> Job:
    """The job: this Python interpreter, as the user who runs the command, also under sudo."""
    user = os.environ.get("SUDO_USER") if system else None
    home = Path(pwd.getpwnam(user).pw_dir) if user else Path.home()
    logs = home / "Library/Logs/reconciler"
    command = [*children.python("reconciler", "serve"), *options]
    if sys.platform == "darwin" and "--log-file" not in " ".join(options):
        command += ["--log-file", str(logs / "reconciler.log")]
    return Job(tuple(command), home, logs, kept(os.environ), user)


def _need_root(*, system: bool) -> None:
    if system and os.geteuid() != 0:
        words = " ".join(["sudo", *children.python("reconciler"), *sys.argv[1:]])
        raise click.ClickException(f"the system's service requires root; run: {words}")


def services() -> tuple[Service, Service]:
    """The user's service and the system's service."""
    return _service(system=False), _service(system=True)
