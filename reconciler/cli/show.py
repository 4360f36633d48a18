"""`show` and `rm`: models on disk."""

from typing import Any
from urllib.parse import quote

import click

from reconciler.cli import completing
from reconciler.cli.client import Client, asks
from reconciler.cli.output import show_data, text_or_data
from reconciler.cli.printing import for_stdout, say
from reconciler.core.memory import readable_bytes


@click.command(epilog="\b\nExample:\n  reconciler show mlx-community/Qwen3-0.6B-4bit")
@click.argument("model", shell_complete=completing.names_and_models)
@click.option("--template", is_flag=True, help="Print only the chat template.")
@text_or_data
@asks
async def show(client: Client, *, model: str, template: bool, form: str) -> None:
    """Describe MODEL, an identifier or a record's name: architecture, size, context, template."""
    found = await client.get(_path(model))
    if template:
        if found["template"] is None:
            raise click.ClickException(f"{found['model']['key']} has no chat template")
        click.echo(for_stdout(found["template"]))
    elif form != "text":
        show_data(found, form)
    else:
        for word, value in lines(found):
            click.echo(f"{word + ':':15}{for_stdout(value)}")


def lines(found: Any) -> list[tuple[str, str]]:
    """Label and value of each line about a model; unknown values are omitted."""
    row = found["model"]
    packed = row["quantization"]
    size, context = row["size_bytes"], row["max_context_length"]
    experts = found["experts_total"]
    defaults = ", ".join(f"{key} {value}" for key, value in found["defaults"].items())
    pairs: list[tuple[str, object]] = [
        ("Model", row["key"]),
        ("Type", row["type"]),
        ("Architecture", row["architecture"]),
        ("Parameters", row["params_string"]),
        ("Quantisation", packed and f"{packed['name']}, {packed['bits_per_weight']:g} bits"),
        ("Size", size and readable_bytes(size)),
        ("Context", context and f"{context} tokens"),
        ("Experts", experts and f"{found['experts_per_token']} of {experts} per token"),
        ("Tool use", "yes" if row["capabilities"]["trained_for_tool_use"] else "no"),
        ("Reasoning", _reasoning(row["capabilities"].get("reasoning"))),
        ("Template", _template(found["template"])),
        ("Defaults", defaults),
        ("Path", found["path"]),
        ("Used by", ", ".join(found["used_by"])),
        ("Problem", row.get("error")),
    ]
    return [(word, str(value)) for word, value in pairs if value]


def _reasoning(can: Any) -> str | None:
    return None if can is None else f"{', '.join(can['allowed_options'])}; default {can['default']}"


def _template(template: str | None) -> str:
    return "none" if template is None else f"{len(template)} characters; --template prints it"


@click.command()
@click.argument("models", nargs=-1, required=True, shell_complete=completing.models)
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@asks
async def rm(client: Client, *, models: tuple[str, ...], yes: bool) -> None:
    """Remove downloaded MODELS from the Hugging Face cache, unless a record uses them."""
    for model in models:
        if not yes:
            click.confirm(f"Remove {model} from the Hugging Face cache?", abort=True, err=True)
        answer = await client.delete(_path(model))
        say(f"{model} is removed: {readable_bytes(answer['freed_bytes'])} are free")


def _path(model: str) -> str:
    return f"/api/v1/checkpoints/{quote(model)}"
