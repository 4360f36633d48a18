"""How much memory and how many tokens, as people write it."""

import re

import click

from reconciler.core.memory import Budget
from reconciler.core.sizes import parse_size

WORDS = ("off", "recommended")


TOKENS = re.compile(r"(\d{1,15})([kKmM]?)")
TOKEN_UNITS = {"": 1, "k": 1024, "m": 1024**2}


class Tokens(click.ParamType[int]):
    """A number of tokens; `k` is 1,024 and `m` 1,048,576: lengths of context are powers of two."""

    name = "tokens"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        """The number. Raises `click.BadParameter`."""
        if isinstance(value, int):
            return value
        found = TOKENS.fullmatch(str(value))
        if found is None:
            words = "write a number, or one with k (1,024) or m (1,048,576), as 16384 or 16k"
            self.fail(f"'{value}' is no number of tokens; {words}", param, context)
        return int(found[1]) * TOKEN_UNITS[found[2].lower()]


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
