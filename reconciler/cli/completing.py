"""Completion of names, models, sources and files in shells.

The daemon is asked with a short timeout by the standard library's client. Where it does not answer,
or refuses, nothing is completed and nothing is printed: a shell shows errors in the prompt.
"""

import http.client
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from reconciler.cli.address import normalize
from reconciler.cli.client import DEFAULT_URL, bearer

SECONDS = 1.0
"""For the daemon to answer."""

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> Any:
    """Files, by the shell itself."""
    return [CompletionItem(incomplete, type="file")]


def _names_of(*lists: tuple[str, str, str]) -> Completer:
    """Complete values of answers: a path, the key of a list there, and the key of its items."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        given = context.params.get(parameter.name or "")
        taken = given if isinstance(given, tuple) else ()
        found: dict[str, None] = {}
        for path, key, name in lists:
            found |= dict.fromkeys(item[name] for item in _answer(context, path).get(key, ()))
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


def _answer(context: click.Context, path: str) -> dict[str, Any]:
    """The daemon's answer; an empty one if there is none."""
    try:
        return _get(_url(context), path, context.params.get("token_file"))
    except (OSError, ValueError, http.client.HTTPException, click.ClickException):
        return {}


def _url(context: click.Context) -> str:
    """As commands choose it: the option, that of `reconciler`, the variable, the default.

    Raises ValueError for what is no address.
    """
    url = context.params.get("url")
    if context.get_parameter_source("url") is not ParameterSource.COMMANDLINE:
        url = context.find_root().params.get("url") or url
    return normalize(url or DEFAULT_URL)


def _get(url: str, path: str, token_file: Path | None) -> dict[str, Any]:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=SECONDS)
    try:
        connection.request("GET", parts.path.rstrip("/") + path, headers=bearer(token_file))
        reply = connection.getresponse()
        answer = json.loads(reply.read()) if reply.status == http.HTTPStatus.OK else {}
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else {}
