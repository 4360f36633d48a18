"""`man`: manual pages, generated from the help texts."""

from collections.abc import Iterator
from pathlib import Path

import click

from reconciler import __version__

NAME = "reconciler"


@click.command(
    epilog="\b\nExamples:\n"
    "  reconciler man load\n"
    "  reconciler man --write ~/.local/share/man/man1 && man reconciler-load"
)
@click.argument("command", nargs=-1)
@click.option(
    "--write",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the pages of all commands to this directory.",
)
@click.pass_context
def man(context: click.Context, command: tuple[str, ...], directory: Path | None) -> None:
    """Print the manual page of COMMAND, or of reconciler, in the format of man(7)."""
    pages = dict(walk(context.find_root().command))
    if directory is None:
        if command not in pages:
            raise click.UsageError(f"there is no command '{' '.join(command)}'")
        click.echo(page(command, pages[command], pages), nl=False)
        return
    if command:
        raise click.UsageError("--write writes the pages of all commands; leave COMMAND out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, described in pages.items():
            file = directory / f"{'-'.join((NAME, *path))}.1"
            file.write_text(page(path, described, pages), "utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write to {directory}: {error.strerror}") from None
    click.echo(f"{len(pages)} pages are written to {directory}")


Words = tuple[str, ...]
"""A command's path: names from the first one below `reconciler`; () is `reconciler`."""


def walk(command: click.Command, path: Words = ()) -> Iterator[tuple[Words, click.Command]]:
    """Yield every command with its path, the given one first."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=" ".join((NAME, *path)))
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from walk(inner, (*path, name))


def page(path: Words, command: click.Command, pages: dict[Words, click.Command]) -> str:
    """The manual page of a command; `pages` has all commands."""
    name = "-".join((NAME, *path))
    context = click.Context(command, info_name=" ".join((NAME, *path)))
    usage = " ".join(command.collect_usage_pieces(context))
    first, _, rest = (command.help or "").partition("\n\n")
    lines = [
        f'.TH "{name.upper()}" "1" "" "{NAME} {__version__}"',
        ".SH NAME",
        f"{text(name)} \\- {text(command.get_short_help_str(200))}",
        ".SH SYNOPSIS",
        f".B {text(context.info_name or NAME)}",
        text(usage),
        ".SH DESCRIPTION",
        *_paragraphs(first),
        *(line for part in rest.split("\n\n") if part for line in (".PP", *_paragraphs(part))),
    ]
    options = [r for p in command.params if (r := p.get_help_record(context)) and r[1]]
    if options:
        lines.append(".SH OPTIONS")
    for flags, words in options:
        lines += [".TP", f".B {text(flags)}", text(words)]
    if command.epilog:
        heading, _, body = command.epilog.replace("\b", "").strip().partition("\n")
        lines += [f".SH {text(heading.rstrip(':').upper())}", ".nf", *map(text, body.splitlines())]
        lines.append(".fi")
    others = [
        other for other in pages if len(other) == len(path) + 1 and other[: len(path)] == path
    ]
    if others or path:
        related = others or [path[:-1]]
        names = ["-".join((NAME, *other)) for other in related]
        lines += [".SH SEE ALSO", ", ".join(f"{text(one)}(1)" for one in names)]
    return "\n".join(line for line in lines if line) + "\n"


def _paragraphs(words: str) -> list[str]:
    return [text(line.strip()) for line in words.replace("\b", "").splitlines() if line.strip()]


def text(words: str) -> str:
    """Escape text for roff, so that it contains no requests or escapes."""
    escaped = words.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
