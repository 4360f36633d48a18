"""Option types: origins of web pages, and host names."""

from collections.abc import Sequence
from pathlib import Path

import click

from reconciler.api.origins import ANY, host_of, origin_of


class Origin(click.ParamType[str]):
    """Origin of a web page, as browsers send it, or `*`."""

    name = "origin"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        """Parse an origin. Raises `click.BadParameter`."""
        try:
            return origin_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, context)


class Host(click.ParamType[str]):
    """Host name, or a pattern for all hosts of a domain."""

    name = "host"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        """Parse a host name; a pattern becomes `.NAME`. Raises `click.BadParameter`."""
        try:
            return host_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, context)


def check_pages(origins: Sequence[str], token_file: Path | None) -> None:
    """Raise `click.ClickException` if all pages are allowed without a token."""
    if ANY in origins and token_file is None:
        raise click.ClickException(
            "--allow-origin '*' lets every web page that you visit use this daemon; allow "
            "single pages, or require a token with --token-file"
        )
