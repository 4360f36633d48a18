"""`open`: open the live page in a browser."""

import webbrowser

import click

from reconciler.cli.client import Client, asks


@click.command(epilog="\b\nExample:\n  reconciler open")
@click.option("--print", "only_print", is_flag=True, help="Print the address; open nothing.")
@asks
async def open(client: Client, *, only_print: bool) -> None:  # noqa: A001  the command's name
    """Open the live page in a browser: records, instances and their status.

    The page asks for the token if the daemon requires one.
    """
    await client.get("/api/v1/node")
    address = f"{client.url}/"
    click.echo(address)
    if not only_print and not webbrowser.open(address):
        raise click.ClickException(f"no browser could be started; open {address} yourself")
