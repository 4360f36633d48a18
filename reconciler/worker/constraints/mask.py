"""Masks the tokens that a grammar does not allow next."""

from typing import Any

import mlx.core as mx
import numpy as np


class Mask:
    """Logits processor for one completion. MLX thread only.

    mlx-lm builds the graph of a step before the tokens of the last step are known. The mask starts
    the forward pass before it waits for the last token, so that the model computes while the parser
    consumes the token and computes the mask. The GPU is not idle between two steps.
    """

    def __init__(self, matcher: Any, prompt: int, vocabulary: int) -> None:
        """`matcher`: llguidance's, at the beginning of the completion; `prompt`: number of tokens
        before it; `vocabulary`: number of tokens that the matcher knows.
        """
        self._matcher, self._start, self._vocabulary = matcher, prompt, vocabulary
        self._followed = 0
        self._words = np.zeros((vocabulary + 31) // 32, np.int32)
        self.error = ""
        """Reason why the completion cannot continue; "" if it can. Later tokens are meaningless."""

    def __call__(self, context: Any, logits: Any) -> Any:
        """Set the logits (1, vocabulary) of tokens that may not follow `context` to -inf."""
        if self.error:
            return logits
        mx.async_eval(logits)  # type: ignore[no-untyped-call]
        allowed = self._allowed(logits.shape[-1]) if self._follow(context) else None
        if allowed is None:
            return logits
        return mx.where(allowed, logits, mx.array(-mx.inf, logits.dtype))

    def _follow(self, context: Any) -> bool:
        """Consume the tokens since the last step. True if all fit the grammar.

        A preempted request restarts with all tokens that it had generated, which the matcher has
        already consumed.
        """
        tokens = context[self._start + self._followed :].tolist()
        self._followed += len(tokens)
        for token in tokens:
            if not self._matcher.consume_token(token):
                self._fail(f"token {token} does not fit the grammar")
                return False
        return True

    def _allowed(self, vocabulary: int) -> Any:
        """Return the tokens that may come next, as an array of booleans: (vocabulary,)."""
        words = self._words
        words.fill(0)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._matcher.is_error():
            self._fail("the completion cannot continue")
            return None
        bits = np.unpackbits(words.view(np.uint8), count=self._vocabulary, bitorder="little")
        allowed = np.zeros(vocabulary, np.bool_)
        known = min(vocabulary, self._vocabulary)
        allowed[:known] = bits[:known]
        if not allowed.any():
            self._fail("the grammar allows no token of this model next")
            return None
        return mx.array(allowed)

    def _fail(self, words: str) -> None:
        detail = self._matcher.get_error().strip().partition("\n")[0][:200]
        if detail.startswith("NoExtension"):
            detail = "none of this model's tokens fits the grammar"
        self.error = f"{words}: {detail}" if detail else words
