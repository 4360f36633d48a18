"""Back-off: when to retry after a transient failure."""

from dataclasses import dataclass

from reconciler.core.errors import Problem

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 300.0
JITTER = 0.1
"""Maximum random addition, as a fraction of the delay, so that many Macs do not retry in step."""


@dataclass(frozen=True)
class Retry:
    """A failure of one generation of a record with one state of its files."""

    generation: int
    fingerprint: str | None
    problem: Problem
    failures: int
    not_before: float
    """Monotonic seconds. Unused for a permanent problem."""


def after(
    previous: Retry | None,
    generation: int,
    fingerprint: str | None,
    problem: Problem,
    now: float,
    chance: float,
) -> Retry:
    """The retry that follows a failure: 1 s doubling to 300 s.

    `chance` in [0, 1) scales the jitter. Failures of another generation do not count.
    """
    failures = 1
    if previous is not None and previous.generation == generation:
        failures += previous.failures
    # The exponent is bounded because 2.0**1024 overflows after a month of failures.
    delay = min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures - 1, 30))
    delay *= 1 + JITTER * chance
    return Retry(generation, fingerprint, problem, failures, now + delay)
