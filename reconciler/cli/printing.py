"""Text from models and checkpoints, made safe for a terminal.

A terminal obeys escape sequences: they write to the clipboard, change the title or hide lines. A
model can be made to write them, by its makers or by a text that it reads.
"""

import re
import sys
from typing import Any

import click

_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters other than tab and line feed."""


def escaped(text: str) -> str:
    """The text with control characters escaped, as in `\\x1b`."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def for_stdout(text: str) -> str:
    """The text as it may be printed: unchanged if stdout is not a terminal."""
    return escaped(text) if sys.stdout.isatty() else text


def say(text: str, *, err: bool = False, **style: Any) -> None:
    """Print a line with texts of the daemon or of files, safe if its stream is a terminal.

    `style` is that of `click.secho`.
    """
    stream = sys.stderr if err else sys.stdout
    click.secho(escaped(text) if stream.isatty() else text, err=err, **style)
