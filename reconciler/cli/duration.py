"""How long, as people write it."""

import re

import click

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smh]?)+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")


class Duration(click.ParamType[float]):
    """Seconds, from `30`, `30s`, `5m`, `1m30s` or `2h`."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """Seconds. Raises `click.BadParameter`."""
        if isinstance(value, float):
            return value
        if not _DURATION.fullmatch(str(value)):
            self.fail(f"'{value}' is no duration; write for instance 30s, 5m or 1h", param, context)
        return sum(float(n) * UNITS.get(unit, 1.0) for n, unit in _PART.findall(str(value)))
