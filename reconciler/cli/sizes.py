"""Option types: sizes of memory and numbers of tokens."""

import re

import click

from reconciler.core.memory import Budget
from reconciler.core.sizes import parse_size

WORDS = ("off", "recommended")


TOKENS = re.compile(r"(\d{1,15})([kKmM]?)")
TOKEN_UNITS = {"": 1, "k": 1024, "m": 1024**2}


class Tokens(click.ParamType[int]):
    """A number of tokens; `k` is 1,024 and `m` 1,048,576: context lengths are powers of two."""

    name = "tokens"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        """Parse the number. Raises `click.BadParameter`."""
        if isinstance(value, int):
            return value
        found = TOKENS.fullmatch(str(value))
        if found is None:
            words = "write a number, optionally with k (1,024) or m (1,048,576): 16384 or 16k"
            self.fail(f"'{value}' is not a number of tokens; {words}", param, context)
        return int(found[1]) * TOKEN_UNITS[found[2].lower()]


class WiredLimit(click.ParamType[str]):
    """`off`, `recommended` or a size; the text is kept for reports."""

    name = "limit"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        """Check the text. Raises `click.BadParameter`."""
        text = str(value)
        if text not in WORDS:
            try:
                parse_size(text)
            except ValueError as error:
                self.fail(f"{error}, or {' or '.join(WORDS)}", param, context)
        return text


class SizeOrOff(click.ParamType[int]):
    """A size in bytes; `off` is 0."""

    name = "size|off"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        """Parse the size. Raises `click.BadParameter`."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if text in ("off", "0"):
            return 0
        try:
            return parse_size(text)
        except ValueError as error:
            self.fail(f"{error}, or off", param, context)


class MemoryBudget(click.ParamType[Budget]):
    """A size, or a share of the machine's maximum."""

    name = "size|share"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> Budget:
        """Parse the budget. Raises `click.BadParameter`."""
        if isinstance(value, Budget):
            return value
        try:
            return Budget.parse(str(value))
        except ValueError as error:
            self.fail(f"{error}, or a share such as 70%", param, context)
