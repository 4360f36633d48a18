"""Prompt lookup: drafts copied from the prompt and the answer so far.

Answers often repeat their prompt: edited code, quotations, summaries. The longest earlier
occurrence of the latest tokens is found, and the tokens that followed it are the draft. Source of
the idea: https://github.com/apoorvumang/prompt-lookup-decoding.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LEAST = 3
"""Latest tokens that must occur earlier. Shorter matches are mostly accidental."""

LONGEST = 16
"""Latest tokens that are compared. Among equal matches the latest is taken that is followed by as
many tokens as are wanted."""


class PromptLookup:
    """Finds drafts in a growing sequence of tokens."""

    def __init__(self) -> None:
        self._tokens: npt.NDArray[np.int32] = np.empty(1024, np.int32)
        self._length = 0

    def find(self, tokens: Sequence[int], most: int, then: Sequence[int] = ()) -> list[int]:
        """Find up to `most` tokens that may follow `tokens` and `then`; empty if there are none.

        `tokens` must begin with those of the previous call.
        """
        self._extend(tokens, len(then))
        held = self._tokens[: self._length + len(then)]
        held[self._length :] = then
        if most < 1 or len(held) <= LEAST:
            return []
        # Positions of an earlier token that equals the last one, then of two that equal, ...
        ends = np.flatnonzero(held[:-1] == held[-1])
        for back in range(1, min(LONGEST, len(held) - 1)):
            inside = ends[ends >= back]
            longer = inside[held[inside - back] == held[-1 - back]]
            if not len(longer):
                if back < LEAST:
                    return []
                break
            ends = longer
        whole = ends[ends + most < len(held)]
        start = int(whole[-1] if len(whole) else ends[0]) + 1
        return [int(token) for token in held[start : start + most]]

    def _extend(self, tokens: Sequence[int], more: int) -> None:
        """Append the tokens that are new since the previous call; make room for `more`."""
        while len(tokens) + more > len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty_like(self._tokens)])
        self._tokens[self._length : len(tokens)] = tokens[self._length :]
        self._length = len(tokens)
