"""The command line. Each command has its own module, imported on first use."""

import sys
from importlib import import_module
from keyword import iskeyword
from pathlib import Path
from typing import Any

import click

from reconciler.cli.printing import escaped

HOME = Path("~/.reconciler").expanduser()

EXIT_CODES = {
    0: "success; for `plan` and `diff`: nothing would change",
    1: "rejected or failed; the message gives the reason",
    2: "for `plan` and `diff`: something would change",
    3: "no daemon answers at its address; for `service status`: the service is not running",
    4: "no such record, model or instance; for `service status`: the service is not installed",
    5: "a wait timed out",
    64: "invalid command line",
    130: "interrupted by Ctrl-C",
    143: "terminated by SIGTERM",
}

INTERRUPTED, TERMINATED = 130, 143

# click's default is 2, which `plan` and `diff` use, as terraform and git do.
click.UsageError.exit_code = 64

COMMANDS = {
    "Run": ("serve", "service", "doctor", "demo"),
    "Models": (
        *("load", "unload", "run", "launch", "ps", "ls", "show"),
        *("search", "pull", "downloads", "rm", "estimate"),
    ),
    "Records": (
        *("init", "import", "get", "export", "describe", "apply", "delete"),
        *("plan", "diff", "validate", "wait", "clear"),
    ),
    "Sources": ("sources", "sync", "confirm", "suspend", "resume"),
    "Fleet": ("fleet",),
    "Observe": ("open", "top", "bench", "events", "history", "logs"),
    "Other": ("completion", "man", "version"),
}
"""Commands by their heading in the help."""

MODULES = {
    "load": "instances",
    "unload": "instances",
    "run": "chat",
    "ls": "models",
    "pull": "downloads",
    "estimate": "models",
    "import": "importing",
    "rm": "show",
    "get": "records",
    "export": "records",
    "describe": "records",
    "wait": "records",
    "clear": "records",
    "apply": "manifests",
    "delete": "manifests",
    "plan": "manifests",
    "diff": "manifests",
    "validate": "manifests",
    "open": "browser",
    "events": "observe",
    "history": "observe",
    "logs": "observe",
    "sources": "sources",
    "sync": "sources",
    "confirm": "sources",
    "suspend": "sources",
    "resume": "sources",
    "completion": "meta",
    "version": "meta",
}
"""Modules of commands whose module has another name."""


class Commands(click.Group):
    """Group whose commands are imported on first use."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command. Ctrl-C exits without a message.

        Control characters in messages of errors are escaped: names and models are in them.
        """
        try:
            return super().invoke(context)
        except click.ClickException as error:
            error.message = escaped(error.message)  # type: ignore[misc]  # nothing else shows it
            raise
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)

    def list_commands(self, _context: click.Context) -> list[str]:
        """Names of all commands, in the order of the help."""
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return a command; None if there is none of that name."""
        if name not in self.list_commands(context):
            return None
        module = import_module(f"reconciler.cli.{MODULES.get(name, name)}")
        # A function cannot be named like a Python keyword.
        command: click.Command = getattr(module, f"{name}_" if iskeyword(name) else name)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest similar names if there is no such command.

        click would only search the imported commands.
        """
        names = self.list_commands(context)
        if args[0] not in names:
            raise click.NoSuchCommand(args[0], possibilities=names, ctx=context)
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings."""
        for heading, names in COMMANDS.items():
            commands = [(name, self.get_command(context, name)) for name in names]
            with formatter.section(heading):
                formatter.write_dl([(n, c.get_short_help_str(100)) for n, c in commands if c])


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.option("--url", help="Address of the daemon, for the command that follows.")
@click.version_option(package_name="mlx-reconciler", prog_name="reconciler")
@click.pass_context
def main(context: click.Context, url: str | None) -> None:
    """Keep language models loaded on this Mac as declared, with MLX."""
    context.obj = url
