"""The requests of a session that have no place in its batch yet, in order.

A request with the same prompt as another one follows it: it waits until that one has read the
prompt for both.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from reconciler.worker.pending import Request

MAX_WAITING = 128
"""Requests that wait for a place in the batch."""


class OverloadedError(RuntimeError):
    """As many requests wait as may."""


class Waiting:
    """Requests that wait for a place, and those that wait for another one to read their prompt."""

    def __init__(self) -> None:
        self.ready: deque[Request] = deque()
        """Those that take the next place, the first one first."""
        self._following: list[Request] = []

    def __len__(self) -> int:
        return len(self.ready) + len(self._following)

    def __iter__(self) -> Iterator[Request]:
        return chain(self.ready, self._following)

    def add(self, requests: Sequence[Request]) -> None:
        """Append requests, in order."""
        for request in requests:
            (self.ready if request.follows is None else self._following).append(request)

    def end_following(self, is_to_be_read: Callable[[Request], bool]) -> None:
        """Move requests to `ready` whose prompt was read by another one, or is not going to be.

        `is_to_be_read`: True if a request is going to read its prompt.
        """
        if not self._following:
            return
        ended = [r for r in self._following if r.follows is None or not is_to_be_read(r.follows)]
        self._following = [r for r in self._following if r not in ended]
        self.ready.extendleft(reversed(ended))  # they came with the one that they followed

    def remove(self, request: Request) -> bool:
        """Remove a request; True if it was there."""
        for requests in (self.ready, self._following):
            if request in requests:
                requests.remove(request)
                return True
        return False

    def clear(self) -> None:
        """Remove all."""
        self.ready.clear()
        self._following.clear()
