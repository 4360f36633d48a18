"""How much memory is wired, as people write it."""

import click

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
