"""Draw picture.svg of the README: real commands, a real daemon, the demo's model.

`python -m docs.picture` runs the commands as `docs.transcript` does.
"""

import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

from docs.transcript import hidden, output, running

PICTURE = Path(__file__).with_name("picture.svg")

COMMANDS = (
    'reconciler run demo/questions "What is the capital of Japan?"',
    "cat assistant.yaml",
    "reconciler plan -f assistant.yaml",
    "reconciler apply -f assistant.yaml --wait",
    "reconciler ps",
)

COLUMNS = 84


def main() -> None:
    """Write the picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    with running() as (home, environ, _):
        for command in COMMANDS:
            console.print(Text(f"$ {command}", style="bold green"))
            printed = output(command, home, environ | {"COLUMNS": str(COLUMNS)})
            console.print(Text(hidden(printed, home)))
    # Use the reader's fonts: the picture must not download any.
    svg = re.sub(r"@font-face \{.*?\}", "", console.export_svg(title="reconciler"), flags=re.DOTALL)
    PICTURE.write_text(svg.replace("Fira Code, monospace", "Menlo, monospace"), "utf-8")


if __name__ == "__main__":
    main()
