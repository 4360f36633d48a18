"""Option types: durations."""

import math
import re

import click

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smh]?)+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smh]?)")


class Duration(click.ParamType[float]):
    """Seconds, from `30`, `30s`, `5m`, `1m30s` or `2h`."""

    name = "duration"

    def __init__(self, least: float = 0.0, *, whole: bool = False) -> None:
        """Set the minimum in seconds; `whole` rejects fractions of a second."""
        self._least, self._whole = least, whole

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """Parse a duration to seconds. Raises `click.BadParameter`."""
        if isinstance(value, float):
            return value
        seconds = self._seconds(value, param, context)
        if seconds < self._least:
            self.fail(f"'{value}' is too short; the minimum is {self._least:g}s", param, context)
        if self._whole and not seconds.is_integer():
            self.fail(f"'{value}' is not a whole number of seconds", param, context)
        return seconds

    def _seconds(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        if not _DURATION.fullmatch(str(value)):
            self.fail(
                f"'{value}' is not a duration; write for example 30s, 5m or 1h", param, context
            )
        return sum(float(n) * UNITS.get(unit, 1.0) for n, unit in _PART.findall(str(value)))


class Bound(Duration):
    """A duration as for `Duration`, or `off`: infinite."""

    name = "duration|off"

    def convert(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        """Parse a duration to seconds. Raises `click.BadParameter`."""
        return math.inf if value == "off" else super().convert(value, param, context)

    def _seconds(
        self, value: object, param: click.Parameter | None, context: click.Context | None
    ) -> float:
        try:
            return super()._seconds(value, param, context)
        except click.BadParameter as error:
            self.fail(f"{error.message}, or off", param, context)
