"""Who goes so that a more important record has room: idle, of lower rank, the longest unused first.

Rank is the order of loading without age: what would be loaded first never goes for what comes
after it, so two records cannot send each other away in turn.
"""

from collections.abc import Mapping, Sequence

from reconciler.core.memory import Ledger
from reconciler.core.records import HTTP, Record


def rank(record: Record) -> tuple[bool, int]:
    """The lower loads first: manifests' records before ad-hoc ones, then by priority."""
    return (record.owner == HTTP, -record.spec.priority)


def victims(
    wanted: Record,
    candidates: Sequence[Record],
    used_at: Mapping[str, float],
    ledger: Ledger,
    need: tuple[str, int, int],
) -> tuple[str, ...]:
    """The names to unload so that `need` (checkpoint, shared and own bytes) fits; none: in vain.

    `candidates` are loaded and idle.
    """
    below = [c for c in candidates if rank(c) > rank(wanted)]
    below.sort(key=lambda c: (used_at.get(c.name, 0.0), c.name))
    chosen: list[str] = []
    for candidate in below:
        chosen.append(candidate.name)
        if ledger.without(*chosen).missing(*need) <= 0:
            return _needed(chosen, ledger, need)
    return ()


def _needed(chosen: list[str], ledger: Ledger, need: tuple[str, int, int]) -> tuple[str, ...]:
    """Those without whom it does not fit; the longest unused stay among them."""
    for name in reversed(chosen[:-1]):
        others = [other for other in chosen if other != name]
        if ledger.without(*others).missing(*need) <= 0:
            chosen = others
    return tuple(chosen)
