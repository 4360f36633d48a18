"""Parser of server-sent events.

An event counts once its blank line is read: a connection may be cut at any byte, and the rest of
an event comes again after a client resumes.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import click

OTHER = "a server other than reconciler answers"

DONE = "[DONE]"
"""Data of the last event of OpenAI's streams."""

FIELDS = frozenset({"id", "event", "data"})


class MalformedError(click.ClickException):
    """A response that no reconciler daemon sends."""

    exit_code = 3

    def __init__(self) -> None:
        super().__init__(OTHER)


@dataclass(frozen=True)
class ServerEvent:
    """A server-sent event; its data is an object or `DONE`."""

    type: str
    data: Any
    id: str | None


async def server_events(
    read_line: Callable[[], Awaitable[bytes]],
) -> AsyncIterator[ServerEvent | None]:
    """Each event of a stream, and None for each comment.

    `read_line` returns the next line, or nothing at the end. Raises `EOFError` if the stream ends
    within an event, and `MalformedError`.
    """
    fields: dict[str, str] = {}
    while line := await read_line():
        if not line.endswith(b"\n"):
            raise EOFError
        text = _text(line)
        name, _, value = text.partition(":")
        if name in FIELDS:
            fields[name] = value.removeprefix(" ")
        if text.startswith(":"):
            yield None
        elif not text and "data" in fields:
            yield ServerEvent(
                fields.get("event", "message"), _data(fields["data"]), fields.get("id")
            )
        if not text:
            fields = {}
    if "data" in fields:
        raise EOFError


def decoded(text: str | bytes) -> Any:
    """Decode an object of JSON. Raises `MalformedError`."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise MalformedError from None
    if not isinstance(data, dict):
        raise MalformedError
    return data


def _data(text: str) -> Any:
    return text if text == DONE else decoded(text)


def _text(line: bytes) -> str:
    """A line without its end. Raises `MalformedError`."""
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise MalformedError from None
    if text.startswith("id") and not text.isprintable():  # it becomes a header
        raise MalformedError
    return text
