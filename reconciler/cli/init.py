"""`init`: write a first manifest for a model. Works without a daemon."""

from pathlib import Path
from typing import Any

import click

from reconciler.cli import completing
from reconciler.cli.output import yaml_text
from reconciler.core.snapshot import API_VERSION, KIND, read_file

MORE = """\
  # Unload after an hour without a request; the next request loads it again.
  # idle_ttl_seconds: 3600
  # Also answer requests for these names.
  # aliases: [gpt-4o]
  # Defaults for requests that omit these keys.
  # defaults:
  #   temperature: 0.7
  #   system_prompt: Answer briefly.
"""
"""Comments at the end of `spec`."""

CONTEXT = """\
  # Default: the model's maximum.
  # config:
  #   context_length: 16384
"""


@click.command(
    epilog="\b\nExamples:\n"
    "  reconciler init mlx-community/Qwen3-0.6B-4bit\n"
    "  reconciler init mlx-community/Qwen3-0.6B-4bit ~/.reconciler/manifests/assistant.yaml"
)
@click.argument("model", shell_complete=completing.models)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--name", help="Name of the record.  [default: the last part of MODEL]")
@click.option("--context-length", type=int, help="Most tokens of prompt and completion.")
@click.option("--download", is_flag=True, help="Download the model if it is not on disk.")
def init(
    model: str, file: Path | None, name: str | None, context_length: int | None, *, download: bool
) -> None:
    """Write a first manifest for MODEL to FILE, which must not exist, or to stdout."""
    text = manifest(model, name, context_length, download=download)
    read = read_file("manifest", text.encode())
    for flaw in read.flaws:
        raise click.ClickException(flaw.message)
    if file is None:
        click.echo(text, nl=False)
        return
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        message = f"{file} already exists and is not overwritten; choose another file"
        raise click.ClickException(message) from None
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    click.echo(f"{file} is written; apply it with `reconciler apply -f {file}`", err=True)


def manifest(model: str, name: str | None, context_length: int | None, *, download: bool) -> str:
    """The text of a manifest."""
    spec: dict[str, Any] = {"model": model}
    if context_length is not None:
        spec["config"] = {"context_length": context_length}
    if download:
        spec["download"] = "if-missing"
    record = name or model.rstrip("/").rpartition("/")[2]
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": record},
        "spec": spec,
    }
    return yaml_text(document) + (CONTEXT if context_length is None else "") + MORE
