"""Repeated events pass once per period."""

from reconciler.core.ratelimit import MAX_KEYS, RateLimit


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_key_passes_once_in_a_period_with_the_number_dropped() -> None:
    now = Now()
    limit = RateLimit(60, now)
    assert [limit.passes("a") for _ in range(3)] == [0, None, None]
    assert limit.passes("b") == 0
    now.seconds = 59.9
    assert limit.passes("a") is None
    now.seconds = 60.0
    assert limit.passes("a") == 3
    now.seconds = 200.0
    assert limit.passes("a") == 0


def test_the_oldest_keys_are_dropped() -> None:
    now = Now()
    limit = RateLimit(60, now)
    limit.passes("first")
    for key in range(MAX_KEYS):
        limit.passes(key)
    assert limit.passes("first") == 0
    assert limit.passes(MAX_KEYS - 1) is None
