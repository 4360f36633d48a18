"""Durations of the phases of a completion, for dialects whose responses report them.

    arrived ── model loaded ── started ── prefilled ── first token ── last token ── now
          waited                     prompt             generation

Tokens are recorded on the MLX thread and read on the HTTP thread; each record is one assignment.
"""

import time
from collections.abc import Callable


class Timing:
    """Durations of the phases [s]; 0 for a phase that has not happened."""

    def __init__(self, waited: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`waited`: time since the request arrived, during which it waited for its model [s]."""
        self._clock = clock
        self.waited = waited
        self.ready = clock()
        """Time at which the model was loaded and the worker had the request."""
        self._asked = self.ready - waited
        self._started: float | None = None
        self._read: float | None = None
        self._first: float | None = None
        self._last: float | None = None

    def start(self) -> None:
        """Record that the prompt is built and prefill may begin."""
        self._started = self._clock()

    def note_read(self) -> None:
        """Record a step of the prefill."""
        if self._first is None:
            self._read = self._clock()

    def note_token(self) -> None:
        """Record a generated token."""
        self._last = self._clock()
        if self._first is None:
            self._first = self._last

    @property
    def total(self) -> float:
        """Time from the request to now."""
        return self._clock() - self._asked

    @property
    def prompt(self) -> float:
        """Time from the built prompt to the end of its prefill, including the wait for a slot."""
        return _between(self._started, self._read if self._read is not None else self._first)

    @property
    def first_token(self) -> float:
        """Time from the built prompt to the first token."""
        return _between(self._started, self._first)

    @property
    def generation(self) -> float:
        """Time from the end of the prefill to the last token."""
        return _between(self._read if self._read is not None else self._started, self._last)


def _between(begin: float | None, end: float | None) -> float:
    return 0.0 if begin is None or end is None else end - begin
