"""`ls` and `estimate`."""

from typing import Any

import click

from reconciler.cli import completing
from reconciler.cli.client import Client, asks
from reconciler.cli.instances import config_text
from reconciler.cli.output import Column, output, show, show_data, text_or_data
from reconciler.cli.printing import say
from reconciler.cli.settings import body, settings
from reconciler.core.memory import readable_bytes

MODELS = (
    Column("MODEL", lambda m: m["key"]),
    Column("ARCHITECTURE", lambda m: m["architecture"]),
    Column("PARAMETERS", lambda m: m["params_string"]),
    Column("BITS", lambda m: m["quantization"] and m["quantization"]["bits_per_weight"]),
    Column("SIZE", lambda m: m["size_bytes"] and readable_bytes(m["size_bytes"])),
    Column("CONTEXT", lambda m: m["max_context_length"]),
    Column("LOADED", lambda m: ", ".join(i["id"] for i in m["loaded_instances"])),
    Column("TYPE", lambda m: m["type"], wide=True),
    Column("PROBLEM", lambda m: m.get("error"), wide=True),
)


@click.command()
@output
@asks
async def ls(client: Client, *, form: str) -> None:
    """List the models on disk; `-o wide` shows why one cannot be loaded."""
    found = (await client.get("/api/v1/models"))["models"]
    show(found, MODELS, form, empty="no models were found", name="key")


@click.command(
    epilog="\b\nExample:\n  reconciler estimate openai/gpt-oss-20b --context-length 131072"
)
@click.argument("model", shell_complete=completing.models)
@settings
@text_or_data
@asks
async def estimate(client: Client, *, model: str, form: str, **asked: Any) -> None:
    """Estimate the memory that MODEL needs, and whether it fits now; nothing is loaded."""
    answer = await client.post("/api/v1/models/estimate", body(model, None, asked))
    if form != "text":
        show_data(answer, form)
        return
    say(f"{model}: {config_text(answer['config'])}")
    for words, key in (
        ("weights", "weights_bytes"),
        ("adapter", "adapter_bytes"),
        ("draft model", "draft_bytes"),
        ("KV cache", "kv_cache_bytes"),
        ("prefill", "prefill_bytes"),
        ("process", "process_bytes"),
        ("on top of what is loaded", "needed_bytes"),
        ("free", "free_bytes"),
        ("of", "budget_bytes"),
    ):
        if answer[key] or key not in ("adapter_bytes", "draft_bytes"):
            click.echo(f"{words + ':':26}{readable_bytes(answer[key])}")
    click.echo("it fits" if answer["fits"] else "it does not fit now")
    for warning in answer["warnings"]:
        say(f"warning: {warning['key']}: {warning['reason']}", err=True)
