"""`search`: find models on the hub."""

import click

from reconciler.cli.client import Client, asks
from reconciler.cli.output import Column, age, output, show
from reconciler.core.memory import readable_bytes

FITS = {True: "yes", False: "no", None: None}

ROWS = (
    Column("MODEL", lambda m: m["model"]),
    Column("SIZE", lambda m: m["size_bytes"] and readable_bytes(m["size_bytes"])),
    Column("FITS", lambda m: FITS[m["fits"]]),
    Column("ON DISK", lambda m: m["on_disk"]),
    Column("DOWNLOADS", lambda m: m["downloads"]),
    Column("UPDATED", lambda m: age(m["updated_at"])),
    Column("GATED", lambda m: m["gated"], wide=True),
)


@click.command(epilog="\b\nExample:\n  reconciler search qwen3 4bit")
@click.argument("words", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(1, 100), default=20, help="Maximum number of models.")
@click.option("--all", "everything", is_flag=True, help="Include models that are not tagged mlx.")
@output
@asks
async def search(
    client: Client, *, words: tuple[str, ...], limit: int, everything: bool, form: str
) -> None:
    """Search the Hugging Face hub for WORDS; the most downloaded models come first.

    FITS is yes if the weights take at most 90 % of the daemon's memory budget, and - if the hub
    does not report their size. For a model on disk, `reconciler estimate` is exact.
    """
    query = {"search": " ".join(words), "limit": str(limit)}
    if everything:
        query["library"] = "any"
    found = (await client.get("/api/v1/hub/models", **query))["models"]
    show(found, ROWS, form, empty="the hub has no such model", name="model")
