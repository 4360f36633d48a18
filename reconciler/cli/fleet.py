"""`fleet status` and `fleet endpoints`: query all nodes of an inventory."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from reconciler.cli import haproxy
from reconciler.cli.inventory import Answers, Node, ask, read
from reconciler.cli.output import Column, condition, output, show
from reconciler.cli.sources import short
from reconciler.core.memory import readable_bytes
from reconciler.host import looks

inventory = click.option(
    "--inventory",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    envvar="RECONCILER_INVENTORY",
    show_envvar=True,
    help="YAML file that lists the nodes: name, url and, if required, token_file.",
)


@click.group()
def fleet() -> None:
    """Query many nodes at once, from a file that lists them."""


NODES = (
    Column("NODE", lambda n: n["name"]),
    Column("COMMIT", lambda n: ", ".join(short(c) or "-" for c in n["commits"])),
    Column("READY", lambda n: f"{n['ready']} of {n['wanted']}"),
    Column("MEMORY", lambda n: n["memory"] and _memory(n["memory"])),
    Column("PROBLEMS", lambda n: "; ".join(n["problems"])),
    Column("URL", lambda n: n["url"], wide=True),
    Column("VERSION", lambda n: n["version"], wide=True),
)


@fleet.command(epilog="\b\nExample:\n  reconciler fleet status --inventory fleet.yaml")
@inventory
@output
def status(*, file: Path, form: str) -> None:
    """List the nodes: commit, ready records, memory, problems. Exit code 1 if any has a problem."""
    nodes = [_summary(answers) for answers in looks.run(ask(read(file), _row))]
    show(nodes, NODES, form, empty="the inventory has no nodes")
    if any(node["problems"] for node in nodes):
        sys.exit(1)


def _row(answers: Answers) -> list[Any]:
    """Cells of a node's row."""
    summary = _summary(answers)
    return [column.of(summary) for column in NODES]


def _summary(answers: Answers) -> dict[str, Any]:
    """Summary of a node, for one table row."""
    wanted = [r for r in answers.records if not r["spec"].get("suspend")]
    commits = [s["commit"]["applied"] for s in answers.sources if s["commit"]]
    facts = answers.facts or {"version": None, "memory": None}
    return {
        "name": answers.node.name,
        "url": answers.node.url,
        "version": facts["version"],
        "commits": commits,
        "ready": sum(_is_ready(r) for r in wanted),
        "wanted": len(wanted),
        "memory": facts["memory"],
        "problems": _problems(answers, wanted),
    }


def _problems(answers: Answers, wanted: Sequence[Any]) -> list[str]:
    if answers.problem is not None:
        return [answers.problem]
    found = [f"{s['name']} is suspended" for s in answers.sources if s["suspended"]]
    found += [s["message"] for s in answers.sources if s["message"]]
    found += [
        f"{file['path']}:{error['line']}: {error['message']}"
        for source in answers.sources
        for file in source["files"]
        for error in file["errors"]
    ]
    for record in wanted:
        ready = condition(record, "Ready")
        if not _is_ready(record):
            found.append(f"{record['name']} is not ready: {ready['message']}")
    return found


def _is_ready(record: Any) -> bool:
    """True if the record answers requests now, or after a request wakes it up."""
    ready = condition(record, "Ready")
    return bool(ready["status"] == "True" or ready["reason"] == "Idle")


def _memory(memory: Any) -> str:
    used, budget = memory["used_bytes"], memory["budget_bytes"]
    return f"{readable_bytes(used)} of {readable_bytes(budget)}"


@fleet.command(
    epilog="\b\nExamples:\n"
    "  reconciler fleet endpoints --inventory fleet.yaml\n"
    "  reconciler fleet endpoints --inventory fleet.yaml --format haproxy > haproxy.cfg"
)
@inventory
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "prometheus", "haproxy"]),
    default="json",
    help="A list, targets for Prometheus' http_sd, or a configuration for HAProxy.",
)
@click.option("--bind", default=":8000", help="Address on which HAProxy listens.")
def endpoints(*, file: Path, form: str, bind: str) -> None:
    """List the nodes that serve each model.

    Unreachable nodes are reported on stderr. HAProxy's configuration has every node that declares a
    model; HAProxy's own checks find those that can answer.
    """
    found = looks.run(ask(read(file), _endpoints))
    for answers in found:
        if answers.problem is not None:
            click.echo(f"{answers.node.name}: {answers.problem}", err=True)
    if form == "haproxy":
        models, unsafe = _models(found)
        for name in sorted(unsafe):
            words = "is left out: HAProxy's configuration cannot hold this name"
            click.echo(f"{name!r} {words}", err=True)
        click.echo(haproxy.configuration(models, bind), nl=False)
        return
    rows = _ready(found)
    document = rows if form == "json" else [_target(answers) for answers in found if answers.facts]
    click.echo(json.dumps(document, indent=2))


def _endpoints(answers: Answers) -> object:
    """Everything that the formats contain about a node."""
    return _models([answers]), _ready([answers]), _target(answers)


def _models(found: Sequence[Answers]) -> tuple[dict[str, list[Node]], set[str]]:
    """Nodes by the instances and models that they declare, and names that HAProxy cannot hold."""
    models: dict[str, list[Node]] = {}
    unsafe: set[str] = set()
    for answers in found:
        for record in answers.records:
            if record["spec"].get("suspend"):
                continue
            for name in (record["name"], record["spec"]["model"]):
                if not haproxy.NAME.fullmatch(name):
                    unsafe.add(name)
                    continue
                nodes = models.setdefault(name, [])
                if answers.node not in nodes:
                    nodes.append(answers.node)
    return models, unsafe


def _ready(found: Sequence[Answers]) -> list[dict[str, Any]]:
    return [
        {
            "name": record["name"],
            "model": record["spec"]["model"],
            "node": answers.node.name,
            "url": f"{answers.node.url}/v1",
        }
        for answers in found
        for record in answers.records
        if _is_ready(record)
    ]


def _target(answers: Answers) -> dict[str, Any]:
    """A node in the format of Prometheus' HTTP service discovery."""
    scheme, _, address = answers.node.url.partition("://")
    labels = {f"node_{k}": v for k, v in answers.facts["labels"].items() if k.isidentifier()}
    return {
        "targets": [address],
        "labels": {"__scheme__": scheme, "node": answers.node.name} | labels,
    }
