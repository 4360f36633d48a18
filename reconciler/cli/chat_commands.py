"""Commands of a chat: lines that begin with a slash."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from reconciler.cli.instances import config_text
from reconciler.cli.printing import say
from reconciler.cli.talk import Talk
from reconciler.core.near import hint

HELP = {
    "/help": "list these commands",
    "/clear": "delete the messages; parameters stay",
    "/set": "list the parameters",
    "/set KEY VALUE": "set a parameter; without VALUE, reset it to the default",
    "/show": "show the instance, its effective settings, and the parameters",
    "/save FILE": "save the messages and parameters to a new JSON file",
    "/bye": "end the chat, as Ctrl-D does",
}

KEYS = """\
Enter sends; Alt-Enter (or Esc, then Enter) starts a new line. Text between \""" and \""" may have
several lines. Up and Ctrl-R find earlier lines. Ctrl-C stops an answer. Type // for a message that
starts with /.
"""


class ByeError(Exception):
    """Raised to end the chat."""


def _number(least: float, most: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise ValueError
        return value

    return convert


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _switch(text: str) -> bool:
    return {"on": True, "off": False}[text.lower()]


PARAMETERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "system": (str, "text"),
    "temperature": (_number(0, 2), "a number from 0 to 2"),
    "top_p": (_number(0, 1), "a number from 0 to 1"),
    "max_tokens": (_positive, "an integer of 1 or more"),
    "verbose": (_switch, "on or off"),
}


async def execute(talk: Talk, line: str) -> None:
    """Execute a line that begins with `/`. Raises `ByeError` and `click.ClickException`."""
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    match command:
        case "/help":
            for name, meaning in HELP.items():
                click.echo(f"{name:16} {meaning}")
            click.echo(KEYS, nl=False)
        case "/clear":
            talk.messages.clear()
            click.echo("the messages are deleted")
        case "/set":
            set_parameter(talk, rest)
        case "/show":
            await _show(talk)
        case "/save":
            _save(talk, rest)
        case "/bye":
            raise ByeError
        case _:
            names = [name for name in HELP if " " not in name]
            near = hint(command, names) or "; /help lists them"
            raise click.ClickException(f"there is no command {command}{near}")


def set_parameter(talk: Talk, text: str) -> None:
    """Set a parameter, or list them if `text` is empty. Raises `click.ClickException`."""
    if not text:
        _list_parameters(talk)
        return
    key, _, value = text.partition(" ")
    value = value.strip()
    if key not in PARAMETERS:
        known = ", ".join(PARAMETERS)
        raise click.ClickException(f"there is no parameter '{key}'; the parameters are {known}")
    convert, meaning = PARAMETERS[key]
    try:
        converted = convert(value) if value else None
    except (ValueError, KeyError):
        raise click.ClickException(f"{key} must be {meaning}, got '{value}'") from None
    if key == "verbose":
        talk.verbose = bool(converted)
    elif converted is None:
        talk.parameters.pop(key, None)
    else:
        talk.parameters[key] = converted
    click.echo(f"{key}: {value or 'the default'}")


def _list_parameters(talk: Talk) -> None:
    for key in PARAMETERS:
        value = talk.parameters.get(key, "the default")
        if key == "verbose":
            value = "on" if talk.verbose else "off"
        click.echo(f"{key + ':':13}{value}")


async def _show(talk: Talk) -> None:
    record = await talk.client.get(f"/api/v1/records/{quote(talk.instance)}")
    config = record["status"]["config"]
    click.echo(f"instance:    {talk.instance}")
    say(f"model:       {record['spec']['model']}")
    say(f"settings:    {config_text(config) if config is not None else 'not loaded'}")
    click.echo(f"messages:    {len(talk.messages)}")
    _list_parameters(talk)


def _save(talk: Talk, name: str) -> None:
    if not name:
        raise click.ClickException("give a file: /save FILE")
    messages, parameters = talk.request()
    text = json.dumps(
        {"model": talk.instance, "messages": messages} | parameters, indent=2, ensure_ascii=False
    )
    try:
        with Path(name).expanduser().open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise click.ClickException(f"{name} already exists; choose another file") from None
    except OSError as error:
        raise click.ClickException(f"cannot write {name}: {error.strerror}") from None
    click.echo(f"{len(messages)} messages are saved in {name}")
