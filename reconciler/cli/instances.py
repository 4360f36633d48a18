"""`load` and `unload`."""

from typing import Any
from urllib.parse import quote

import click

from reconciler.cli import completing
from reconciler.cli.client import Client, asks
from reconciler.cli.output import show_data, text_or_data
from reconciler.cli.printing import say
from reconciler.cli.progress import loaded
from reconciler.cli.settings import body, settings


@click.command(
    epilog="\b\nExamples:\n"
    "  reconciler load openai/gpt-oss-20b\n"
    "  reconciler load openai/gpt-oss-20b --context-length 16384 --name long"
)
@click.argument("model", shell_complete=completing.models)
@click.option("--name", help="Name of the instance.  [default: the model's identifier]")
@settings
@click.option(
    "--alias",
    "aliases",
    multiple=True,
    help="Additional name of the instance in requests; repeatable.",
)
@click.option(
    "--warm/--no-warm",
    default=None,
    help="Keep the model's files in the page cache while it is unloaded.",
)
@text_or_data
@asks
async def load(
    client: Client,
    *,
    model: str,
    name: str | None,
    aliases: tuple[str, ...],
    warm: bool | None,
    form: str,
    **asked: Any,
) -> None:
    """Load MODEL, or join an instance that is already loaded; it stays loaded until `unload`."""
    sent = body(model, name, asked) | ({"aliases": aliases} if aliases else {})
    if warm is not None:
        sent["warm"] = warm
    answer = await loaded(client, sent)
    if form != "text":
        show_data(answer, form)
        return
    how = "is already loaded" if answer["joined"] else "is loaded"
    say(f"{answer['model_instance_id']} {how}: {config_text(answer['config'])}")
    click.echo(f"load time: {answer['load_time_seconds']:.2f} s")
    await note_join(client, answer, model, name, asked)
    for warning in answer["warnings"]:
        say(f"warning: {warning['key']}: {warning['reason']}", err=True)


async def note_join(
    client: Client, answer: Any, model: str, name: str | None, asked: dict[str, Any]
) -> None:
    """Report on stderr that a joined instance has settings which were not requested."""
    joined = answer["model_instance_id"]
    if not answer["joined"] or name is not None or joined.lower() == model.lower():
        return
    record = await client.get(f"/api/v1/records/{quote(joined)}")
    config = record["spec"].get("config", {})
    others = {key: value for key, value in config.items() if asked.get(key) is None}
    if not others:
        return
    place = f"{record['file']}:{record['line']}" if record["file"] else "an earlier load"
    click.echo(
        f"note: '{joined}' was loaded by {place} with {config_text(others)}; for a separate "
        f"instance: reconciler load {model} --name NAME",
        err=True,
    )


@click.command()
@click.argument("names", nargs=-1, required=True, shell_complete=completing.names)
@asks
async def unload(client: Client, *, names: tuple[str, ...]) -> None:
    """Unload instances that were loaded by HTTP, and delete their records."""
    for name in names:
        await client.post("/api/v1/models/unload", {"instance_id": name})
        click.echo(f"{name} is unloaded")


def config_text(config: Any) -> str:
    """Settings as text for people, without those that are off (null)."""
    found = (f"{key} {_word(value)}" for key, value in config.items() if value is not None)
    return ", ".join(found)


def _word(value: object) -> str:
    return str(value).lower()
