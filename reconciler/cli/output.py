"""Output of commands: tables for people; JSON, YAML and names for programs."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from reconciler.cli.fit import GAP, fitted
from reconciler.cli.printing import for_stdout
from reconciler.core.snapshot import API_VERSION, KIND

FORMATS = ("table", "wide", "json", "yaml", "name")

output = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(FORMATS),
    default="table",
    help="Output format.",
)

INFINITE_WIDTH = 100_000
"""Width of the table layout, in cells: rows never wrap."""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and the function that gives an item's cell."""

    heading: str
    of: Callable[[Any], object]
    wide: bool = False
    """True if the column is only shown with `-o wide`."""


def show(
    items: Sequence[Any], columns: Sequence[Column], form: str, *, empty: str, name: str = "name"
) -> None:
    """Print items of a response; `name` is the key that identifies one.

    If there are none, a table is replaced by the message `empty` on stderr.
    """
    if form == "name":
        for item in items:
            click.echo(item[name])
    elif form in ("json", "yaml"):
        show_data(list(items), form)
    elif not items:
        click.echo(empty, err=True)
    else:
        shown = [column for column in columns if form == "wide" or not column.wide]
        rows = [[_text(column.of(item)) for column in shown] for item in items]
        _table([column.heading for column in shown], rows, fit=form == "table")


text_or_data = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["text", "json", "yaml"]),
    default="text",
    help="Output format.",
)
"""The `-o` option of commands without a table."""


def show_data(data: Any, form: str) -> None:
    """Print a response as JSON or YAML."""
    if form == "yaml":
        click.echo(yaml_text(data), nl=False)
    else:
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def yaml_text(data: Any) -> str:
    """Data as YAML; keys keep their order."""
    import yaml

    from reconciler.cli.yaml12 import Dumper

    text: str = yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return text


def manifests_text(records: Sequence[Any]) -> str:
    """Records as manifests, for `apply -f -` and watched directories."""
    return "".join(
        "---\n"
        + yaml_text(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": record["name"]},
                "spec": record["spec"],
            }
        )
        for record in records
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, fit: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(width=INFINITE_WIDTH, force_terminal=terminal, highlight=False)
    if fit and terminal:
        columns = shutil.get_terminal_size().columns
        rows = fitted(headings, rows, columns)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell, STYLES.get(cell, "")) for cell in row))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


STYLES = {"True": "green", "Loaded": "green", "False": "yellow", "Stalled": "red", "no": "yellow"}
"""Styles of cells by their whole text."""


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return for_stdout(str(value))


def age(time: str | None) -> str | None:
    """Time since an ISO timestamp: `5s`, `3m`, `2h`, `4d`."""
    if time is None:
        return None
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def clock(time: str) -> str:
    """An ISO timestamp in this machine's time zone."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def condition(record: Any, type_: str) -> Any:
    """A condition of a record; one with the status Unknown if it is missing."""
    for one in record["status"]["conditions"]:
        if one["type"] == type_:
            return one
    return {"status": "Unknown", "reason": "", "message": ""}
