"""Rate limit: lets repeated events pass once per period, and counts the suppressed ones."""

from collections.abc import Callable, Hashable

MAX_KEYS = 1000
"""Maximum number of keys kept; beyond it, the key that passed the longest ago is dropped."""


class RateLimit:
    """Lets each key pass once per `seconds`. `now` is a monotonic clock, in seconds."""

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._seconds = seconds
        self._now = now
        self._passed: dict[Hashable, float] = {}
        """Time at which each key last passed, the oldest first."""
        self._left_out: dict[Hashable, int] = {}

    def passes(self, key: Hashable) -> int | None:
        """Number of times `key` was suppressed before it passes now; None: it is suppressed now."""
        now = self._now()
        last = self._passed.get(key)
        if last is not None and now - last < self._seconds:
            self._left_out[key] = self._left_out.get(key, 0) + 1
            return None
        self._passed.pop(key, None)
        self._passed[key] = now
        if len(self._passed) > MAX_KEYS:
            oldest = next(iter(self._passed))
            del self._passed[oldest]
            self._left_out.pop(oldest, None)
        return self._left_out.pop(key, 0)
