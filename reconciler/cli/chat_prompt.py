"""Interactive chat: line editing with prompt_toolkit; Ctrl-C stops only the current answer."""

import asyncio
import signal
import sys
from collections.abc import Awaitable
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from reconciler.cli import INTERRUPTED
from reconciler.cli.chat_commands import ByeError, execute
from reconciler.cli.printing import say
from reconciler.cli.talk import Talk

PROMPT = ">>> "
QUOTES = '"""'


async def converse(talk: Talk, history: Path | None) -> None:
    """Chat until Ctrl-D or /bye. An error ends an answer, not the chat."""
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)) if history is not None else InMemoryHistory(),
        key_bindings=_keys(),
        multiline=True,
        prompt_continuation="... ",
        enable_open_in_editor=False,
    )
    click.echo("Type a message; Ctrl-D ends the chat, /help lists the commands.", err=True)
    while True:
        try:
            line = await session.prompt_async(PROMPT)
        except EOFError:
            return
        except KeyboardInterrupt:
            if session.default_buffer.text:
                continue
            sys.exit(INTERRUPTED)
        try:
            await _until_interrupted(_answer(talk, unquoted(line)))
        except ByeError:
            return
        except click.ClickException as error:
            say(f"Error: {error.format_message()}", fg="red", err=True)


async def _answer(talk: Talk, line: str) -> None:
    if line.startswith("//"):
        await talk.ask(line[1:])
    elif line.startswith("/"):
        await execute(talk, line)
    elif line:
        await talk.ask(line)


async def _until_interrupted(work: Awaitable[None]) -> None:
    """Wait for `work`; Ctrl-C cancels it."""
    task = asyncio.ensure_future(work)
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        click.secho("\n(stopped)", dim=True)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


def unquoted(text: str) -> str:
    """The typed message without the quotes of a multi-line text."""
    text = text.strip()
    if is_open(text) or not text.startswith(QUOTES):
        return text
    return text.removeprefix(QUOTES).removesuffix(QUOTES).strip()


def is_open(text: str) -> bool:
    """True if the text begins with quotes that are not closed."""
    text = text.strip()
    if not text.startswith(QUOTES):
        return False
    return len(text) < 2 * len(QUOTES) or not text.endswith(QUOTES)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        if is_open(event.current_buffer.text):
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
