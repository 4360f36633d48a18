"""Drafts from a second, smaller model with the same tokens.

The draft model has a KV cache of its own. It holds the tokens of the request that was last drafted
for, with drafts at its end that may have been rejected; what does not match is trimmed. Before the
first draft the model reads the prompt, in chunks, one per step of the request. Beside streams, the
stall budget bounds these chunks.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import make_prompt_cache

from reconciler.worker.prompt_cache import always_rewindable
from reconciler.worker.shapes import vocabulary


class DraftModelError(ValueError):
    """The model cannot draft."""


class DraftModel:
    """A draft model and its KV cache. MLX thread only."""

    def __init__(self, model: Any, most_tokens: int, chunk: int, known: int) -> None:
        """`most_tokens`: tokens that the cache has memory for; `chunk`: maximum tokens read at a
        time; `known`: number of tokens of the model to draft for.

        Raises `DraftModelError`.
        """
        self._model, self._most, self.chunk = model, most_tokens, chunk
        if not always_rewindable(make_prompt_cache(model)):
            raise DraftModelError(
                "draft_model: its KV cache cannot be rewound (sliding windows or recurrent states)"
            )
        self._known, self._own = known, vocabulary(model)
        self.clear()

    def clear(self) -> None:
        """Empty the cache, which may be in any state after an error."""
        self._cache: list[Any] = make_prompt_cache(self._model)
        self._held: list[int] = []
        """Tokens that the cache holds."""
        self._matching = 0
        """Held tokens that are known to be those of the current request."""

    @property
    def nbytes(self) -> int:
        """Size of the cache [bytes]."""
        return sum(int(one.nbytes) for one in self._cache)

    def begin(self) -> None:
        """Begin another request."""
        self._matching = 0

    def lacks(self, tokens: Sequence[int]) -> int:
        """Number of these tokens that are not known to be in the cache."""
        return len(tokens) - self._matching

    def match(self, tokens: Sequence[int]) -> int:
        """Trim the cache to the tokens that it shares with the request; return their number."""
        most = min(len(self._held), len(tokens))
        while self._matching < most and self._held[self._matching] == tokens[self._matching]:
            self._matching += 1
        for one in self._cache:
            one.trim(len(self._held) - self._matching)
        del self._held[self._matching :]
        return self._matching

    def read(self, tokens: Sequence[int], most: int) -> bool:
        """Read up to `most` of the tokens that the cache lacks after `match`.

        False if it cannot: they do not fit in the cache, or the model does not have them.
        """
        missing = tokens[self._matching : self._matching + most]
        if len(tokens) > self._most or max(missing) >= self._own:
            return False
        self._feed(missing)
        mx.eval([one.state for one in self._cache])
        self._matching = len(self._held)
        return True

    def draft(self, tokens: Sequence[int], following: int, number: int) -> list[int]:
        """Draft up to `number` tokens after `tokens` and `following`, once all of them are read.

        Empty if they do not fit in the cache, or are not known to both models.
        """
        number = min(number, self._most - len(tokens) - 1)
        missing = [*tokens[self._matching :], following]
        if number < 1 or max(missing) >= self._own:
            return []
        chosen = [self._feed(missing)]
        while len(chosen) < number:
            chosen.append(self._call(chosen[-1][None]))
        drafts: list[int] = mx.concatenate(chosen).tolist()  # type: ignore[assignment]
        self._held += drafts[:-1]
        self._matching = len(tokens)  # `following` may be computed again
        beyond = (place for place, token in enumerate(drafts) if token >= self._known)
        return drafts[: next(beyond, None)]

    def _feed(self, tokens: Sequence[int]) -> Any:
        """Compute tokens, and the most likely one after them: (1,)."""
        self._held += tokens
        return self._call(mx.array([list(tokens)]))

    def _call(self, inputs: Any) -> Any:
        with mx.stream(generation_stream):
            return mx.argmax(self._model(inputs, cache=self._cache)[:, -1, :], axis=-1)
