"""Shell completion of names, models, sources and files.

The daemon is queried with a short timeout and the standard library's HTTP client. If the request
fails, nothing is completed and nothing is printed: a shell would show an error in the prompt.
"""

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from reconciler.cli.address import normalize
from reconciler.cli.client import DEFAULT_URL, MAX_ANSWER, bearer

SECONDS = 1.0
"""Timeout of a request to the daemon."""

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Any:
    """Let the shell complete files."""
    return [CompletionItem(incomplete, type="file")]


def _names_of(*lists: tuple[str, str, str]) -> Completer:
    """Complete values from responses: a path, the key of a list, and the key in its items."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        given = context.params.get(parameter.name or "")
        taken = given if isinstance(given, tuple) else ()
        found: dict[str, None] = {}
        for path, key, name in lists:
            found |= dict.fromkeys(_texts(_answer(context, path), key, name))
        return [
            CompletionItem(value)
            for value in found
            if value.startswith(incomplete) and value not in taken
        ]

    return complete


_RECORDS = ("/api/v1/records", "records", "name")
_MODELS = ("/api/v1/models", "models", "key")
_SOURCES = ("/api/v1/sources", "sources", "name")

names = _names_of(_RECORDS)
models = _names_of(_MODELS)
sources = _names_of(_SOURCES)
names_and_models = _names_of(_RECORDS, _MODELS)
names_and_sources = _names_of(_RECORDS, _SOURCES)


def _texts(answer: Any, key: str, name: str) -> list[str]:
    """Values of `name` in the items of a list; empty if the answer has another form."""
    try:
        values = [item[name] for item in answer[key]]
    except (LookupError, TypeError):
        return []
    return [value for value in values if isinstance(value, str) and value.isprintable()]


def _answer(context: click.Context, path: str) -> Any:
    """The daemon's response; empty if the request fails."""
    try:
        return _get(_url(context), path, context.params.get("token_file"))
    except (
        OSError,
        RecursionError,
        ValueError,
        http.client.HTTPException,
        click.ClickException,
    ):
        return {}


def _url(context: click.Context) -> str:
    """The daemon's address, in the commands' order of precedence.

    The command's option, the option of `reconciler`, the variable, the default.
    Raises ValueError if it is not an address.
    """
    url = context.params.get("url")
    if context.get_parameter_source("url") is not ParameterSource.COMMANDLINE:
        url = context.find_root().params.get("url") or url
    return normalize(url or DEFAULT_URL)


def _get(url: str, path: str, token_file: Path | None) -> Any:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=bearer(token_file))
        reply = connection.getresponse()
        return json.loads(_read(reply)) if reply.status == http.HTTPStatus.OK else {}
    finally:
        connection.close()


def _read(reply: http.client.HTTPResponse) -> bytes:
    """The body of an answer. Raises TimeoutError or ValueError if it is too slow or too long.

    The timeout of a connection only limits the time to the next byte.
    """
    data, deadline = bytearray(), time.monotonic() + SECONDS
    while piece := reply.read1(1 << 16):
        data += piece
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(data) > MAX_ANSWER:
            raise ValueError(len(data))
    return bytes(data)
