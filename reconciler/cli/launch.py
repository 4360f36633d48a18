"""`launch`: load a model, then start a third-party tool that uses it."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from reconciler.cli import completing
from reconciler.cli.client import Client, UnreachableError, asks, read_token
from reconciler.cli.printing import say
from reconciler.cli.progress import loaded
from reconciler.cli.settings import body, settings
from reconciler.recipes.editors import EDITORS, Editor
from reconciler.recipes.script import script
from reconciler.recipes.tools import DIRECTORY, TOKEN, TOOLS, Recipe, Target, Tool

AGENTS_NEED = 32_768
"""Least context length, in tokens, for coding agents: their prompts begin with up to 20,000."""


@dataclass(frozen=True)
class Start:
    """A tool to start after the connection to the daemon is closed."""

    recipe: Recipe
    arguments: tuple[str, ...]


def _then_start(command: Callable[..., Start | None]) -> Callable[..., None]:
    """Start the tool after the connection to the daemon is closed."""

    @functools.wraps(command)
    def started(**options: Any) -> None:
        start = command(**options)
        if start is not None:
            sys.exit(run(start.recipe, start.arguments))

    return started


@click.command(
    epilog="\b\nExamples:\n"
    "  reconciler launch codex --model openai/gpt-oss-20b\n"
    "  reconciler launch claude -- -p 'What does this repository do?'\n"
    "  reconciler launch opencode --print"
)
@click.argument("tool", type=click.Choice([*TOOLS, *EDITORS]))
@click.argument("arguments", nargs=-1, metavar="[-- ARGUMENT]...")
@click.option(
    "--model",
    help="Model or instance.  [default: the only loaded instance]",
    shell_complete=completing.names_and_models,
)
@settings
@click.option("--print", "only_print", is_flag=True, help="Print the recipe; start nothing.")
@_then_start
@asks
async def launch(
    client: Client,
    *,
    tool: str,
    arguments: tuple[str, ...],
    model: str | None,
    only_print: bool,
    **asked: Any,
) -> Start | None:
    """Load MODEL if needed, and start TOOL with settings for it and this daemon.

    Arguments after -- are passed to TOOL. TOOL's own settings files are not changed. Editors read
    their settings only from such files; for them, --print prints the lines to add.
    """
    if tool in EDITORS:
        if not only_print:
            raise _not_startable(EDITORS[tool])
        _print_settings(EDITORS[tool], await _known(client, model))
        return None
    chosen = TOOLS[tool]
    if only_print:
        target = await _known(client, model)
        click.echo(_printed(client, chosen, target, arguments), nl=False)
        return None
    _check_installed(chosen)
    name = model or await _only_loaded(client)
    answer = await loaded(client, await _request(client, name, asked))
    for warning in answer["warnings"]:
        say(f"warning: {warning['key']}: {warning['reason']}", err=True)
    context = answer["config"]["context_length"]
    if chosen.agent and context < AGENTS_NEED:
        click.echo(
            f"warning: context_length {context} is short for {chosen.title}, whose prompts begin "
            f"with up to 20,000 tokens; load the model with --context-length {AGENTS_NEED} or more",
            err=True,
        )
    token = read_token(client.token_file) if client.token_file else ""
    target = Target(client.url, answer["model_instance_id"], token, context)
    return Start(chosen.recipe(target), arguments)


def _check_installed(tool: Tool) -> None:
    """Raise `click.ClickException` if the tool's program is not on PATH."""
    program = tool.recipe(Target("", "")).command[0]
    if shutil.which(program) is None:
        raise click.ClickException(
            f"{tool.title} is not installed: `{program}` is not on PATH; "
            f"install it with `{tool.install}`"
        )


async def _only_loaded(client: Client) -> str:
    """Name of the only loaded instance of a language model. Raises `click.ClickException`."""
    names = sorted(name for name, _ in await _instances(client))
    if len(names) == 1:
        return names[0]
    if not names:
        words = "no model is loaded; choose one with --model (`reconciler ls` lists the models)"
        raise click.ClickException(words)
    listed = ", ".join(names[:10])
    raise click.ClickException(f"{len(names)} models are loaded; choose one with --model: {listed}")


async def _instances(client: Client) -> list[tuple[str, int]]:
    """Names and context lengths of loaded instances of language models."""
    models = (await client.get("/api/v1/models"))["models"]
    return [
        (instance["id"], instance["config"]["context_length"])
        for model in models
        if model["type"] == "llm"
        for instance in model["loaded_instances"]
    ]


async def _request(client: Client, name: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Load request for a model, or for the record of that name."""
    records = (await client.get("/api/v1/records"))["records"]
    record = next((record for record in records if record["name"] == name), None)
    if record is None:
        return body(name, None, asked)
    return body(record["spec"]["model"], name, asked)


async def _known(client: Client, model: str | None) -> Target:
    """Target of a printed recipe: nothing is loaded; no daemon is needed if MODEL is given."""
    token = TOKEN if client.token_file else ""
    try:
        instances = dict(await _instances(client))
        name = model or await _only_loaded(client)
    except UnreachableError:
        if model is None:
            raise
        return Target(client.url, model, token)
    return Target(client.url, name, token, instances.get(name))


def _not_startable(editor: Editor) -> click.ClickException:
    return click.ClickException(
        f"{editor.title} cannot be started with settings for one session: it reads them from a "
        f"file; `reconciler launch {editor.name} --print` prints the lines to add"
    )


def _print_settings(editor: Editor, target: Target) -> None:
    """Print the lines to add to a settings file; name the file on stderr."""
    token = "; TOKEN stands for the daemon's token" if target.token else ""
    click.echo(f"add to {editor.place}{token}:", err=True)
    shown = replace(target, token="TOKEN" if target.token else "")
    click.echo(editor.settings(shown), nl=False)


def _printed(client: Client, tool: Tool, target: Target, arguments: tuple[str, ...]) -> str:
    token_file = str(client.token_file or "")
    commands = script(tool.recipe(target), arguments, token_file)
    if target.context_length is not None:
        return commands
    return f"# {target.model} is not loaded: `reconciler load` it first, or serve with --jit.\n" + (
        commands
    )


def run(recipe: Recipe, arguments: tuple[str, ...]) -> int:
    """Run the recipe's program and return its exit status.

    A recipe without files replaces this process, and does not return. Raises
    `click.ClickException` if the program cannot be started.
    """
    if not recipe.files:
        return _become(recipe, arguments)
    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        for name, content in recipe.files.items():
            path = Path(directory) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, "utf-8")
        return _beside(recipe, arguments, directory)


def _environment(recipe: Recipe, directory: str = "") -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in recipe.removed}
    return kept | {k: v.replace(DIRECTORY, directory) for k, v in recipe.environ.items()}


def _become(recipe: Recipe, arguments: tuple[str, ...]) -> int:
    """Replace this process with the program."""
    command = recipe.words(arguments)
    sys.stdout.flush()
    try:
        os.execvpe(command[0], command, _environment(recipe))  # noqa: S606
    except OSError as error:
        raise _not_started(command[0], error) from None


def _beside(recipe: Recipe, arguments: tuple[str, ...], directory: str) -> int:
    """Run the program as a child, so that the directory can be removed afterwards."""
    command = [word.replace(DIRECTORY, directory) for word in recipe.words(arguments)]
    before: dict[int, Any] = {}
    try:
        # The terminal sends Ctrl-C to both processes; the program handles it.
        before[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
        with subprocess.Popen(command, env=_environment(recipe, directory)) as child:
            for ends in (signal.SIGTERM, signal.SIGHUP):
                before[ends] = signal.signal(ends, lambda number, _: child.send_signal(number))
            status = child.wait()
    except OSError as error:
        raise _not_started(command[0], error) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _not_started(program: str, error: OSError) -> click.ClickException:
    return click.ClickException(f"{program} cannot be started: {error.strerror}")
