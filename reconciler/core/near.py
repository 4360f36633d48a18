"""Names similar to one that was not found, for messages."""

import difflib
from collections.abc import Iterable

SHOWN = 3
SHORTEST = 3
"""Minimum length of a name that is searched for within others."""


def near(name: str, names: Iterable[str]) -> list[str]:
    """The same name in another letter case; else names that contain it or are spelt similarly."""
    by_lower = {one.lower(): one for one in sorted(names)}
    wanted = name.lower()
    if wanted in by_lower:
        return [by_lower[wanted]]
    containing = [one for one in by_lower if len(wanted) >= SHORTEST and wanted in one]
    similar = difflib.get_close_matches(wanted, by_lower, n=SHOWN)
    return [by_lower[one] for one in dict.fromkeys([*containing, *similar])][:SHOWN]


def hint(name: str, names: Iterable[str]) -> str:
    """End of a message: `; did you mean 'a' or 'b'?`, or nothing."""
    found = " or ".join(f"'{one}'" for one in near(name, names))
    return f"; did you mean {found}?" if found else ""
