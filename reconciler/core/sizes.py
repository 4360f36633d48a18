"""Sizes of memory as people write them."""

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
"""Bytes of each: powers of 1000, with an `i` of 1024."""

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) ?([A-Za-z]+)")


def parse_size(text: str) -> int:
    """Bytes, from `400MB`, `1.5 GB` or `24GiB`; a part of a byte is dropped.

    The unit is not optional: a bare number could be any. Raises ValueError with words.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2] not in UNITS:
        units = ", ".join(UNITS)
        raise ValueError(f"'{text}' is no size; write a number and a unit ({units}), as 24GiB")
    return int(Decimal(found[1]) * UNITS[found[2]])
