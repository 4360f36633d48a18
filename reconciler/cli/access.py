"""Origins of pages and names of hosts, as people write them."""

from collections.abc import Sequence
from pathlib import Path

import click

from reconciler.api.origins import ANY, host_of, origin_of


class Origin(click.ParamType[str]):
    """The origin of a page, as browsers send it, or `*`."""

    name = "origin"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        """The origin. Raises `click.BadParameter`."""
        try:
            return origin_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, context)


class Host(click.ParamType[str]):
    """The name of a host, or a pattern for all below a name."""

    name = "host"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> str:
        """The name, a pattern as `.NAME`. Raises `click.BadParameter`."""
        try:
            return host_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, context)


def check_pages(origins: Sequence[str], token_file: Path | None) -> None:
    """Raise `click.ClickException` if all pages are allowed and none needs a token."""
    if ANY in origins and token_file is None:
        raise click.ClickException(
            "--allow-origin '*' lets every web page that you visit use this daemon; name the "
            "pages, or a file with a token that they must send with --token-file"
        )
