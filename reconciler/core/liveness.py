"""Liveness of a worker, derived from the pulses that it reports.

A worker is checked a few times in each probe interval. It is hung if it has not answered for an
interval, or if it was busy without progress for an interval plus the time that its current step
may take. Only time during which the daemon itself ran is counted: a check counts for at most the
time between two checks, and after a gap longer than an interval (the machine slept, the daemon was
stopped) all counters start again. So a jump of the clock is never taken for a hang.
"""

from dataclasses import dataclass, replace

from reconciler.core.protocol import Pulse

LOOKS = 4
"""Checks in each interval."""

PROBE_AFTER = 0.75
"""Fraction of an interval without work after which a probe is due. A worker that hangs right after
a probe is thus detected within two intervals: three quarters until the next probe, and one until
that times out."""


@dataclass(frozen=True)
class ProbeState:
    """Result of the checks so far. Times in seconds during which the daemon ran."""

    at: float
    """Time of the last check; monotonic seconds."""
    steps: int = 0
    """Steps that it last reported."""
    silent: float = 0.0
    """Time since it last answered."""
    stalled: float = 0.0
    """Time since it last made progress or was idle."""
    resting: float = 0.0
    """Time since it last did anything, while it is idle."""


def look(before: ProbeState, pulse: Pulse | None, now: float, interval: float) -> ProbeState:
    """The state after one more check; `pulse` None: it did not answer in time."""
    lived = now - before.at
    if lived > interval:
        return ProbeState(now, before.steps if pulse is None else pulse.steps)
    lived = min(lived, interval / LOOKS)
    if pulse is None:
        return replace(before, at=now, silent=before.silent + lived)
    if pulse.steps != before.steps:
        return ProbeState(now, pulse.steps)
    if pulse.busy:
        return ProbeState(now, pulse.steps, stalled=before.stalled + lived)
    return ProbeState(now, pulse.steps, resting=before.resting + lived)


def hung(watched: ProbeState, pulse: Pulse | None, interval: float) -> str | None:
    """Description of the hang; None: it is alive, as far as is known."""
    if watched.silent >= interval:
        return f"it has not answered for {watched.silent:.3g} s"
    if pulse is not None and watched.stalled >= interval + pulse.allowance:
        return f"it is busy and has made no progress for {watched.stalled:.3g} s"
    return None


def probe_due(watched: ProbeState, interval: float) -> bool:
    """True if it has been idle so long that only a probe can show that it still generates."""
    return watched.resting >= PROBE_AFTER * interval
