"""`run`: load a model if needed, then answer one prompt or chat."""

import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from reconciler.cli import HOME, completing
from reconciler.cli.client import Client, NotFoundError, asks
from reconciler.cli.instances import note_join
from reconciler.cli.output import condition
from reconciler.cli.printing import say
from reconciler.cli.progress import loaded
from reconciler.cli.settings import body, settings
from reconciler.cli.talk import Talk

HISTORY = HOME / "chat-history"


@click.command(
    epilog="\b\nExamples:\n"
    "  reconciler run openai/gpt-oss-20b\n"
    '  reconciler run openai/gpt-oss-20b "What is a reconcile loop?"\n'
    '  git diff | reconciler run openai/gpt-oss-20b "Write a commit message."'
)
@click.argument("model", shell_complete=completing.names_and_models)
@click.argument("prompt", required=False)
@click.option("--name", help="Name of the instance.  [default: the model's identifier]")
@click.option("--system", help="System message.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Sampling temperature.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens per answer.")
@click.option(
    "--verbose",
    is_flag=True,
    help="Print tokens per second, time to first token and cached tokens after each answer.",
)
@click.option(
    "--history/--no-history",
    default=True,
    help=f"Keep typed lines in ~/.reconciler/{HISTORY.name}, for the arrow keys and Ctrl-R.",
)
@settings
@asks
async def run(
    client: Client,
    *,
    model: str,
    prompt: str | None,
    name: str | None,
    system: str | None,
    temperature: float | None,
    max_tokens: int | None,
    verbose: bool,
    history: bool,
    **asked: Any,
) -> None:
    """Answer PROMPT with MODEL, a model or an instance; without PROMPT, chat until Ctrl-D.

    MODEL is loaded if needed. Piped input is put before PROMPT. In a chat, /help lists the
    commands; Ctrl-C stops an answer.
    """
    piped = "" if sys.stdin.isatty() else _piped()
    question = "\n\n".join(part for part in (piped, prompt) if part)
    if not question and not sys.stdin.isatty():
        raise click.ClickException("there is no prompt; give a PROMPT, or pipe one in")
    instance = await _instance(client, model, name, asked)
    talk = Talk(client, instance, verbose=verbose)
    for key, value in (
        ("system", system),
        ("temperature", temperature),
        ("max_tokens", max_tokens),
    ):
        if value is not None:
            talk.parameters[key] = value
    if question:
        await talk.ask(question)
        return
    from reconciler.cli.chat_prompt import converse

    await converse(talk, _history(HISTORY) if history else None)


async def _instance(client: Client, model: str, name: str | None, asked: dict[str, Any]) -> str:
    """Name of the instance to use; loads one unless a record has the name `model`.

    A record needs no load: a request wakes its instance up and waits until it is ready.
    Raises `DaemonError`.
    """
    if name is None:
        try:
            record = await client.get(f"/api/v1/records/{quote(model)}")
        except NotFoundError:
            pass
        else:
            if all(value is None for value in asked.values()):
                ready = condition(record, "Ready")
                if ready["status"] != "True":
                    say(f"{model} is not ready: {ready['message']}", err=True)
                return model
            name, model = model, record["spec"]["model"]
    answer = await loaded(client, body(model, name, asked))
    await note_join(client, answer, model, name, asked)
    instance: str = answer["model_instance_id"]
    return instance


def _piped() -> str:
    """Text of stdin. Raises `click.ClickException`."""
    try:
        return sys.stdin.buffer.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        message = f"the piped input is not UTF-8 text: byte {error.start} is invalid"
        raise click.ClickException(message) from None


def _history(path: Path) -> Path:
    """The file of typed lines, readable by its owner only. Raises `click.ClickException`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; run with --no-history"
        raise click.ClickException(message) from None
    return path
