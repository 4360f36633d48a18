"""Let what repeats through once in a period, and count how often it was left out."""

from collections.abc import Callable, Hashable

MAX_KEYS = 1000
"""That are remembered; of more, the one that was let through the longest ago is forgotten."""


class RateLimit:
    """Lets each key through once in `seconds`. `now` is a monotonic clock, in seconds."""

    def __init__(self, seconds: float, now: Callable[[], float]) -> None:
        self._seconds = seconds
        self._now = now
        self._passed: dict[Hashable, float] = {}
        """When each key was last let through, the oldest first."""
        self._left_out: dict[Hashable, int] = {}

    def passes(self, key: Hashable) -> int | None:
        """How often `key` was left out before this time; None: it is left out now too."""
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
