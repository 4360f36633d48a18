"""When the parts of a completion happened, for dialects whose answers say how long they took.

    asked ── the model is loaded ── started ── prompt read ── first token ── last token ── now
             waited                 prompt                    generation

Tokens are noted on the MLX thread and read on that of HTTP; each is one assignment.
"""

import time
from collections.abc import Callable


class Timing:
    """Seconds; 0 of a part that has not happened."""

    def __init__(self, waited: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """The request came `waited` seconds ago, and waited for its model since."""
        self._clock = clock
        self.waited = waited
        self.ready = clock()
        """When its model was loaded and the request here."""
        self._asked = self.ready - waited
        self._started: float | None = None
        self._read: float | None = None
        self._first: float | None = None
        self._last: float | None = None

    def start(self) -> None:
        """The prompt is made; the model may read it."""
        self._started = self._clock()

    def note_read(self) -> None:
        """A step of the prompt was read."""
        if self._first is None:
            self._read = self._clock()

    def note_token(self) -> None:
        """A token was generated."""
        self._last = self._clock()
        if self._first is None:
            self._first = self._last

    @property
    def total(self) -> float:
        """From the request to now."""
        return self._clock() - self._asked

    @property
    def prompt(self) -> float:
        """From the prompt until it was read, its turn included."""
        return _between(self._started, self._read if self._read is not None else self._first)

    @property
    def first_token(self) -> float:
        """From the prompt to the first token."""
        return _between(self._started, self._first)

    @property
    def generation(self) -> float:
        """From the end of the prompt to the last token."""
        return _between(self._read if self._read is not None else self._started, self._last)


def _between(begin: float | None, end: float | None) -> float:
    return 0.0 if begin is None or end is None else end - begin
