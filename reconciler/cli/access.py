"""Origins of pages and names of hosts, as people write them."""

import click

from reconciler.api.origins import host_of, origin_of


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
