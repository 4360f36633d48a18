"""The type of options that name a file which another program reads."""

import os
import stat
from pathlib import Path
from typing import Any

import click

from reconciler.host.kinds import kind_of


class RegularFile(click.Path):
    """A path of a regular file, which must exist: a program that opens a FIFO waits for ever."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, exists=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert the text of an option. Fails if the path is not a regular file."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            self.fail(f"File {str(path)!r} is {kind_of(mode)}, not a regular file.", param, ctx)
        return path
