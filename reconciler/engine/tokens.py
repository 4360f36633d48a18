"""Token counts and first-token latencies by instance name, across all its sessions and workers."""

from collections.abc import Collection
from dataclasses import dataclass

from reconciler.core.protocol import Pulse, Usage


@dataclass
class _Open:
    name: str
    usage: Usage


class Tokens:
    """Monotonic counts. Session names are never reused."""

    def __init__(self) -> None:
        self._closed: dict[str, Usage] = {}
        self._open: dict[str, _Open] = {}

    def open(self, session: str, name: str) -> None:
        """Register a session of the instance `name`."""
        self._open[session] = _Open(name, Usage())

    def read(self, pulse: Pulse) -> None:
        """Apply a worker's counts. Pulses may arrive out of order."""
        for session, usage in pulse.usage.items():
            self._read(session, usage)

    def close(self, session: str, usage: Usage | None = None) -> None:
        """Close a session; `usage` is its final count, if known."""
        if usage is not None:
            self._read(session, usage)
        known = self._open.pop(session, None)
        if known is not None:
            before = self._closed.get(known.name, Usage())
            self._closed[known.name] = _sum(before, known.usage)

    def totals(self) -> dict[str, Usage]:
        """Return the counts of each instance since the daemon started, except dropped ones."""
        totals = dict(self._closed)
        for known in self._open.values():
            totals[known.name] = _sum(totals.get(known.name, Usage()), known.usage)
        return totals

    def retain_only(self, names: Collection[str]) -> None:
        """Drop the counts of all other names, so that they do not accumulate.

        An idle instance keeps its counts, so `names` are names of records, not of instances.
        """
        for gone in [name for name in self._closed if name not in names]:
            del self._closed[gone]

    def _read(self, session: str, usage: Usage) -> None:
        known = self._open.get(session)
        if known is not None:
            known.usage = Usage(
                max(known.usage.prompt_tokens, usage.prompt_tokens),
                max(known.usage.completion_tokens, usage.completion_tokens),
                known.usage.first_tokens.latest(usage.first_tokens),
                max(known.usage.cached_tokens, usage.cached_tokens),
                max(known.usage.disk_tokens, usage.disk_tokens),
                known.usage.speculated.latest(usage.speculated),
            )


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(
        a.prompt_tokens + b.prompt_tokens,
        a.completion_tokens + b.completion_tokens,
        a.first_tokens.plus(b.first_tokens),
        a.cached_tokens + b.cached_tokens,
        a.disk_tokens + b.disk_tokens,
        a.speculated.plus(b.speculated),
    )
