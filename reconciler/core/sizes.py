"""Memory sizes as users write them."""

import re
from decimal import Decimal

UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
"""Bytes per unit: powers of 1000, or of 1024 with an `i`."""

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]+)")


def parse_size(text: str) -> int:
    """Parse `400MB`, `1.5 GB` or `24GiB` to bytes; fractions of a byte are dropped.

    The unit is required, because a bare number is ambiguous. Raises ValueError with a message for
    users.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2] not in UNITS:
        units = ", ".join(UNITS)
        raise ValueError(
            f"'{text}' is not a size; use a number and a unit ({units}), such as 24GiB"
        )
    return int(Decimal(found[1]) * UNITS[found[2]])
