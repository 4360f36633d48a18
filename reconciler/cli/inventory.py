"""Inventory file of a fleet's nodes, and queries to them."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click

from reconciler.cli.address import normalize
from reconciler.cli.client import Client, bearer, misread
from reconciler.core.manifest import MAX_BYTES, Diagnostic, ManifestError, parse
from reconciler.core.schema import check
from reconciler.host.kinds import read_at_most

SECONDS = 10.0
"""Timeout after which a node counts as unreachable."""


@dataclass(frozen=True)
class Node:
    """A machine of the fleet."""

    name: str
    url: str
    token_file: Path | None = None


@dataclass(frozen=True)
class Answers:
    """Responses of a node; `problem` is the error if it could not be queried."""

    node: Node
    problem: str | None = None
    facts: Any = None
    records: Sequence[Any] = ()
    sources: Sequence[Any] = ()


def read(file: Path) -> list[Node]:
    """Read an inventory. Raises `click.ClickException` with file, line and column."""
    try:
        documents = parse(read_at_most(file, MAX_BYTES))
    except OSError as error:
        raise click.ClickException(f"cannot read {file}: {error.strerror}") from None
    except ManifestError as error:
        raise click.ClickException(_error_text(file, error.flaw)) from None
    if len(documents) != 1:
        raise click.ClickException(
            f"{file}: an inventory must be one document, not {len(documents)}"
        )
    (document,) = documents
    flaws = [
        Diagnostic(m.message, document.position(m.path), m.param)
        for m in check("inventory", document.value)
    ]
    if flaws:
        raise click.ClickException("\n".join(_error_text(file, flaw) for flaw in flaws))
    nodes = [_node(one, file) for one in document.value["nodes"]]
    names = [node.name for node in nodes]
    for name in names:
        if names.count(name) > 1:
            raise click.ClickException(f"{file}: the node {name} is listed twice")
    return nodes


def _node(one: Any, file: Path) -> Node:
    """Build a node; a token file is relative to the inventory."""
    token = one.get("token_file")
    path = file.parent / Path(token).expanduser() if token is not None else None
    try:
        return Node(one["name"], normalize(one["url"]), path)
    except ValueError as error:
        raise click.ClickException(f"{file}: the node {one['name']}: {error}") from None


def _error_text(file: Path, flaw: Diagnostic) -> str:
    return f"{file}:{flaw.position.line}:{flaw.position.column}: {flaw.message}"


async def ask(nodes: Sequence[Node], view: Callable[[Answers], object]) -> list[Answers]:
    """Query all nodes concurrently.

    `view`: whatever the caller does with a node's responses. A node whose responses make it raise
    an exception has a problem, so that they affect no other node.
    """
    return list(await asyncio.gather(*(_ask(node, view) for node in nodes)))


async def _ask(node: Node, view: Callable[[Answers], object]) -> Answers:
    timeout = aiohttp.ClientTimeout(total=SECONDS)
    try:
        headers = bearer(node.token_file)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            client = Client(node.url, session)
            facts = await client.get("/api/v1/node")
            records = (await client.get("/api/v1/records"))["records"]
            sources = (await client.get("/api/v1/sources"))["sources"]
        answers = Answers(node, None, facts, records, sources)
        view(answers)
    except TimeoutError:
        return Answers(node, f"no answer within {SECONDS:g} s")
    except click.ClickException as error:
        return Answers(node, error.message.partition(";")[0])
    except Exception as error:  # noqa: BLE001  one node must not hide the others
        return Answers(node, misread(error))
    return answers
