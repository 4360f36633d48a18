"""`completion` and `version`."""

import click
from click.shell_completion import get_completion_class

from reconciler import __version__


@click.command(epilog='\b\nExample:\n  eval "$(reconciler completion zsh)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, names, models and files in SHELL."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"{shell} is not supported")
    found = kind(context.find_root().command, {}, "reconciler", "_RECONCILER_COMPLETE")
    click.echo(found.source())


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"reconciler {__version__}")
