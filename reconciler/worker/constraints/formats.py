"""Patterns of dates and times that every parser accepts, in place of llguidance's own.

llguidance's `date-time` allows leap seconds in any minute, and 29 February in any year. RFC 3339
does not, and Python's and JavaScript's parsers reject them.
"""

from typing import Any

_DAY = r"(0[1-9]|[12]\d|3[01])"
_LEAP = r"(\d\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_YEAR = r"(000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_DATE = (
    rf"({_YEAR}-((0[13578]|1[02])-{_DAY}|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    rf"|{_LEAP}-02-29)"
)
_TIME = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_PATTERNS = {"date": f"^{_DATE}$", "time": f"^{_TIME}$", "date-time": f"^{_DATE}T{_TIME}$"}
_PATTERNS = {name: pattern.replace(r"\d", "[0-9]") for name, pattern in _PATTERNS.items()}

_VALUES = ("const", "enum", "default", "examples")
"""Keywords whose values are not schemas."""


def with_patterns(schema: Any) -> Any:
    """Replace date and time formats in a schema by patterns. Raises RecursionError."""
    if isinstance(schema, list):
        return [with_patterns(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: value if key in _VALUES else with_patterns(value) for key, value in schema.items()
    }
    form = schema.get("format")
    pattern = _PATTERNS.get(form) if isinstance(form, str) else None
    if pattern is not None and "pattern" not in schema:
        del found["format"]
        found["pattern"] = pattern
    return found
