"""Back-off: 1 s doubling to 300 s, with jitter."""

from reconciler.core.backoff import JITTER, LONGEST_SECONDS, Retry, after
from reconciler.core.errors import Problem, Reason

PROBLEM = Problem(Reason.WORKER_DIED, "it died", permanent=False)


def fail(times: int, *, chance: float = 0.0, previous: Retry | None = None) -> Retry:
    for _ in range(times):
        previous = after(previous, 1, "r", PROBLEM, 100.0, chance)
    assert previous is not None
    return previous


def test_the_delay_doubles_up_to_its_limit() -> None:
    delays = [fail(n).not_before - 100.0 for n in range(1, 11)]
    assert delays == [1, 2, 4, 8, 16, 32, 64, 128, 256, LONGEST_SECONDS]


def test_retries_never_end() -> None:
    assert fail(5000).not_before == 100.0 + LONGEST_SECONDS


def test_jitter_adds_a_bounded_fraction() -> None:
    assert fail(1, chance=0.5).not_before == 100.0 + 1 + JITTER / 2


def test_a_new_generation_resets_the_delay() -> None:
    again = after(fail(5), 2, "r", PROBLEM, 100.0, 0.0)
    assert (again.failures, again.not_before) == (1, 101.0)
