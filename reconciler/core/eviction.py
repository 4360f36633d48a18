"""Choice of idle instances to evict for a record of higher rank, the least recently used first.

Rank is the load order without age. A record is evicted only for one of higher rank, so two records
cannot evict each other in turn.
"""

from collections.abc import Mapping, Sequence

from reconciler.core.memory import Ledger
from reconciler.core.records import HTTP, Record


def rank(record: Record) -> tuple[bool, int]:
    """Sort key, lowest loads first: records of manifests before ad-hoc ones, then by priority."""
    return (record.owner == HTTP, -record.spec.priority)


def victims(
    wanted: Record,
    candidates: Sequence[Record],
    used_at: Mapping[str, float],
    ledger: Ledger,
    need: tuple[str, int, int],
) -> tuple[str, ...]:
    """Names to unload so that `need` (checkpoint, shared and own bytes) fits; empty if it cannot.

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
    """Drop names that need not be unloaded, the most recently used first."""
    for name in reversed(chosen[:-1]):
        others = [other for other in chosen if other != name]
        if ledger.without(*others).missing(*need) <= 0:
            chosen = others
    return tuple(chosen)
