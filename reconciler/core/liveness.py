"""Whether a worker lives, from what it says of itself when it is looked at.

A worker is looked at a few times in each probe interval. It is hung when it has not answered for
an interval, or has had something to do and got no further for an interval and the time that the
step under way may take. Counted is only time that the daemon lived through itself: a look counts
for no more than it was due to take, and after a gap longer than an interval (the machine slept,
the daemon was stopped) everything is counted anew. So no jump of the clock is a hang.
"""

from dataclasses import dataclass, replace

from reconciler.core.protocol import Pulse

LOOKS = 4
"""In each interval."""

PROBE_AFTER = 0.75
"""Of an interval, in which nothing was done: then a probe is due. A worker that hangs right after
one is so found within two intervals: three quarters until the next, and one for that to end."""


@dataclass(frozen=True)
class ProbeState:
    """What looks at a worker have shown so far. Times in seconds that the daemon lived through."""

    at: float
    """Of the last look, on the monotonic clock."""
    steps: int = 0
    """As it last said."""
    silent: float = 0.0
    """Since it last answered."""
    stalled: float = 0.0
    """Since it last got further or had nothing to do."""
    resting: float = 0.0
    """Since it last did anything, while it has nothing to do."""


def look(before: ProbeState, pulse: Pulse | None, now: float, interval: float) -> ProbeState:
    """What is known after one more look; None: it did not answer in time."""
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
    """What is missing, in words; None: it lives, as far as is known."""
    if watched.silent >= interval:
        return f"it has not answered for {watched.silent:.3g} s"
    if pulse is not None and watched.stalled >= interval + pulse.allowance:
        return f"it has something to do and got no further for {watched.stalled:.3g} s"
    return None


def probe_due(watched: ProbeState, interval: float) -> bool:
    """Whether it has rested so long that only a token can show that it still generates."""
    return watched.resting >= PROBE_AFTER * interval
