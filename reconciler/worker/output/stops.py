"""Cuts a text before the first stop sequence in it, as the text arrives.

Each stop sequence has a Knuth-Morris-Pratt automaton, so that a character takes a few steps per
stop sequence, regardless of the length of the sequences and of the text before it.
"""

from collections.abc import Sequence


class Stops:
    """Cuts the content before the first stop sequence in it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._automata = [_Automaton(stop) for stop in dict.fromkeys(stops) if stop]
        self.held = ""
        """End of the text that may become a stop sequence."""
        self.found = ""
        """Stop sequence that ended the text; "" if none did yet."""

    @property
    def stopped(self) -> bool:
        """True once a stop sequence ended the text."""
        return bool(self.found)

    def feed(self, text: str) -> str:
        """Add text and return what is final."""
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
        """Return the text that was held back, as no stop sequence can continue it."""
        text, self.held = self.held, ""
        for one in self._automata:
            one.matched = 0
        return text


class _Automaton:
    """Tracks the longest prefix of one stop sequence that the text ends with."""

    def __init__(self, stop: str) -> None:
        self._stop, self.length = stop, len(stop)
        self.matched = 0
        """Length of that prefix."""
        self._borders = [0] * len(stop)
        """Length of the longest proper border of each prefix of the stop sequence."""
        border = 0
        for index in range(1, len(stop)):
            while border and stop[index] != stop[border]:
                border = self._borders[border - 1]
            border += stop[index] == stop[border]
            self._borders[index] = border

    def step(self, character: str) -> bool:
        """Process one character. True if the text now ends with the stop sequence."""
        while self.matched and self._stop[self.matched] != character:
            self.matched = self._borders[self.matched - 1]
        self.matched += self._stop[self.matched] == character
        return self.matched == self.length
