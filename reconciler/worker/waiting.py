"""Queue of a session's requests that have no slot in its batch yet.

A request with the same prompt as another one follows it: it waits until the other one has prefilled
the prompt for both.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from reconciler.worker.pending import Request

MAX_WAITING = 128
"""Maximum number of requests that wait for a slot in the batch."""


class OverloadedError(RuntimeError):
    """The queue is full."""


class Waiting:
    """Requests that wait for a slot, or for another request to prefill their prompt."""

    def __init__(self) -> None:
        self.ready: deque[Request] = deque()
        """Requests that wait for a slot; the first one is admitted next."""
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
        """Move followers to `ready` if their prompt is prefilled, or no longer going to be.

        `is_to_be_read`: True if a request has yet to prefill its prompt.
        """
        if not self._following:
            return
        ended = [r for r in self._following if r.follows is None or not is_to_be_read(r.follows)]
        self._following = [r for r in self._following if r not in ended]
        self.ready.extendleft(reversed(ended))  # they arrived with their leader

    def remove(self, request: Request) -> bool:
        """Remove a request; True if it was there."""
        for requests in (self.ready, self._following):
            if request in requests:
                requests.remove(request)
                return True
        return False

    def clear(self) -> None:
        """Remove all requests."""
        self.ready.clear()
        self._following.clear()
