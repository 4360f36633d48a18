"""`import`: convert settings of LM Studio and Ollama to manifests.

Files of other programs are read, never written. Each preset or model is read separately: one that
cannot be read is reported, and does not stop the others.
"""

from collections.abc import Iterable
from pathlib import Path

import click

from reconciler.cli.importing import lm_studio, ollama
from reconciler.cli.importing.found import Found, file_name, manifest
from reconciler.core.manifest import printable

_FROM = click.Path(path_type=Path, file_okay=False, exists=True)

mapped = click.option(
    "--map",
    "maps",
    multiple=True,
    metavar="NAME=MODEL",
    help="MLX model for a preset or model NAME; repeatable.",
)
to = click.option(
    "--to",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write a file per manifest to this directory.  [default: print them]",
)


@click.group("import")
def import_() -> None:
    """Convert settings of other programs to manifests."""


@import_.command("lmstudio", epilog="\b\nExample:\n  reconciler import lmstudio --to manifests")
@click.option(
    "--from",
    "root",
    type=_FROM,
    default=Path("~/.lmstudio").expanduser(),
    show_default="~/.lmstudio",
    help="LM Studio's directory.",
)
@mapped
@to
def lmstudio_command(root: Path, maps: tuple[str, ...], directory: Path | None) -> None:
    """Import presets, and saved defaults of models.

    A preset has no model: give one for it with --map.
    """
    _import(lm_studio.found(root), _mapping(maps), directory)


@import_.command(
    "ollama",
    epilog="\b\nExample:\n"
    "  reconciler import ollama --map llama3.2=mlx-community/Llama-3.2-3B-Instruct-4bit",
)
@click.option(
    "--from",
    "root",
    type=_FROM,
    default=Path("~/.ollama/models").expanduser(),
    envvar="OLLAMA_MODELS",
    show_default="~/.ollama/models",
    help="Ollama's directory of models.",
)
@mapped
@to
def ollama_command(root: Path, maps: tuple[str, ...], directory: Path | None) -> None:
    """Import the parameters and system prompts of models.

    Ollama's models are GGUF files, which MLX cannot load: give an MLX model for each with --map.
    """
    _import(ollama.found(root), _mapping(maps), directory)


def _mapping(maps: Iterable[str]) -> dict[str, str]:
    pairs = {}
    for text in maps:
        name, separator, model = text.partition("=")
        if not (separator and name and model):
            raise click.UsageError(f"--map takes NAME=MODEL, got '{text}'")
        pairs[name.lower()] = model
    return pairs


def _import(found: Iterable[Found], maps: dict[str, str], directory: Path | None) -> None:
    """Print or write a manifest for each; report settings that are left out."""
    imported, used = 0, set()
    for one in found:
        names = [name.lower() for name in one.names if name.lower() in maps]
        used.update(names)
        model = maps[names[0]] if names else one.model
        problem = one.problem
        if problem is None and model is None:
            problem = f"give an MLX model for it with --map '{one.names[0]}=MODEL'"
        text = ""
        if problem is None and model is not None:
            text, problem = manifest(one, model)
        if problem is None:
            problem = _put(text, one, directory)
        if problem is not None:
            click.echo(f"{printable(one.origin)}: not imported: {printable(problem)}", err=True)
            continue
        imported += 1
        if one.left_out:
            keys = printable(", ".join(one.left_out))
            click.echo(f"{printable(one.origin)}: these settings are left out: {keys}", err=True)
    for name in maps.keys() - used:
        click.echo(f"--map {printable(name)}: no preset or model has this name", err=True)
    if not imported:
        raise click.ClickException("nothing was imported")


def _put(text: str, one: Found, directory: Path | None) -> str | None:
    """Print or write a manifest, and return the error if it cannot be written."""
    if directory is None:
        click.echo(f"---\n{text}", nl=False)
        return None
    file = directory / file_name(one.record)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        return f"{file} already exists and is not overwritten"
    except OSError as error:
        return f"cannot write {file}: {error.strerror}"
    click.echo(f"{file} is written")
    return None
