"""Tables of the command line, generated from its parser."""

import inspect
from collections.abc import Iterator

import click

from reconciler.cli import COMMANDS, EXIT_CODES, main

WHERE = ("RECONCILER_URL", "RECONCILER_TOKEN_FILE")


def commands() -> str:
    """Sections of all commands, with help text, usage, options and examples."""
    return "\n".join(line for path, command in walk() for line in _section(path, command))


def exit_codes() -> str:
    """Table of the exit codes."""
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| exit code | meaning |", "|---|---|", *rows, ""])


def variables() -> str:
    """Table of the environment variables that set options, with their commands."""
    users: dict[str, list[str]] = {}
    meanings: dict[str, str] = {}
    for path, command in walk():
        for option in options(command):
            for variable in [option.envvar] if isinstance(option.envvar, str) else []:
                users.setdefault(variable, []).append(path)
                meanings.setdefault(variable, f"`{option.opts[-1]}`")
    rows = []
    for variable, names in sorted(users.items()):
        who = f"`{names[0]}`" if len(names) == 1 else "all that contact the daemon"
        if "serve" in names and len(names) > 1:
            who = "`serve`, and all that contact the daemon"
        rows.append(f"| `{variable}` | {meanings[variable]} | {who} |")
    return "\n".join(["| variable | option | commands |", "|---|---|---|", *rows, ""])


def walk() -> Iterator[tuple[str, click.Command]]:
    """Yield all commands with their full names, in the order of the help."""
    context = click.Context(main, info_name="reconciler")
    for names in COMMANDS.values():
        for name in names:
            command = main.get_command(context, name)
            if isinstance(command, click.Group):
                for inner, part in command.commands.items():
                    yield f"{name} {inner}", part
            elif command is not None:
                yield name, command


def options(command: click.Command) -> list[click.Option]:
    """Options of a command."""
    return [p for p in command.params if isinstance(p, click.Option)]


def own(command: click.Command) -> list[click.Option]:
    """Options of a command, except those for the address and token of the daemon."""
    return [o for o in options(command) if command.name == "serve" or o.envvar not in WHERE]


def _section(path: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=f"reconciler {path}")
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"### `{path}`"
    yield ""
    yield inspect.cleandoc(command.help or "").replace("\b\n", "").strip()
    yield ""
    yield f"`reconciler {path} {usage}`"
    yield ""
    if own(command):
        yield "| option | meaning |"
        yield "|---|---|"
        for option in own(command):
            yield _row(option, context)
        yield ""
    if command.epilog:
        examples = command.epilog.partition("\n")[2].partition("\n")[2]
        yield "```sh"
        yield from (line.strip() for line in examples.splitlines())
        yield "```"
        yield ""


def _row(option: click.Option, context: click.Context) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    record = option.get_help_record(context)
    help_ = option.help or ""
    if isinstance(option.type, click.Choice):
        choices = ", ".join(f"`{choice}`" for choice in option.type.choices)
        help_ = f"{help_} {choices}".strip()
    return f"| {names} | {help_} |" if record else ""
