"""Ends a text before the first stop in it, as the text comes.

Each stop has a Knuth-Morris-Pratt automaton, so that a character costs a few steps for each stop,
however long the stops are and whatever was written before.
"""

from collections.abc import Sequence


class Stops:
    """Ends the content before the first stop in it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._automata = [_Automaton(stop) for stop in dict.fromkeys(stops) if stop]
        self.held = ""
        """The end of the text, if it may become a stop."""
        self.found = ""
        """The stop that ended the text, once one did."""

    @property
    def stopped(self) -> bool:
        """True once a stop ended the text."""
        return bool(self.found)

    def feed(self, text: str) -> str:
        """The text that is certain."""
        if not self._automata or not text:
            return "" if self.stopped else text
        return self._feed(text)

    def _feed(self, text: str) -> str:
        if self.stopped:
            return ""
        whole = self.held + text
        for position in range(len(self.held), len(whole)):
            character = whole[position]
            ends = [one.length for one in self._automata if one.step(character)]
            if ends:
                end = position + 1
                self.found, self.held = whole[end - max(ends) : end], ""
                return whole[: end - max(ends)]
        open_ = max(one.matched for one in self._automata)
        certain = len(whole) - open_
        self.held = whole[certain:]
        return whole[:certain]

    def release(self) -> str:
        """What is certain of the text that was held back, as something else follows."""
        text, self.held = self.held, ""
        for one in self._automata:
            one.matched = 0
        return text


class _Automaton:
    """Follows how much of one stop the text so far ends with."""

    def __init__(self, stop: str) -> None:
        self._stop, self.length = stop, len(stop)
        self.matched = 0
        """Characters of the stop that the text ends with."""
        self._borders = [0] * len(stop)
        """For each beginning of the stop: the longest end of it that is a shorter beginning."""
        border = 0
        for index in range(1, len(stop)):
            while border and stop[index] != stop[border]:
                border = self._borders[border - 1]
            border += stop[index] == stop[border]
            self._borders[index] = border

    def step(self, character: str) -> bool:
        """Take one character; True if the text now ends with the stop."""
        while self.matched and self._stop[self.matched] != character:
            self.matched = self._borders[self.matched - 1]
        self.matched += self._stop[self.matched] == character
        return self.matched == self.length
