"""How much memory, as people write it."""

import click

from reconciler.core.memory import Budget
from reconciler.core.sizes import parse_size

WORDS = ("off", "recommended")


class WiredLimit(click.ParamType[str]):
    """`off`, `recommended` or a size; it stays as it was written, for reports."""

    name = "limit"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        """The words. Raises `click.BadParameter`."""
        text = str(value)
        if text not in WORDS:
            try:
                parse_size(text)
            except ValueError as error:
                self.fail(f"{error}, or {' or '.join(WORDS)}", param, context)
        return text


class MemoryBudget(click.ParamType[Budget]):
    """A size, or a share of what the machine offers."""

    name = "size|share"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> Budget:
        """The budget. Raises `click.BadParameter`."""
        if isinstance(value, Budget):
            return value
        try:
            return Budget.parse(str(value))
        except ValueError as error:
            self.fail(f"{error}, or a share such as 70%", param, context)
