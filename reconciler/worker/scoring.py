"""Read a prompt and keep how likely each of its tokens was after those before it.

mlx-lm's generators drop the logits of a prompt. So a prompt whose log-probabilities are asked for
is read alone, a piece at a time, as they read it. The cache that this fills goes on into a
generator: nothing is read twice.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import generation_stream
from mlx_lm.models.cache import make_prompt_cache

from reconciler.worker.likelihood import Likelihood, likelihoods
from reconciler.worker.pending import Request, Score

LOGITS = 2**23
"""Numbers of a piece's logits: 32 MB in float32. Of a vocabulary of 150,000, 55 tokens."""

FIRST = 16
"""Tokens of the first piece, which shows how large the vocabulary is."""


class PromptScorer:
    """Reads one prompt. Used on the MLX thread only."""

    def __init__(
        self, model: Any, prompt: Sequence[int], alternatives: int, prefill_step: int
    ) -> None:
        """`alternatives`: likeliest tokens that are named at each place; `prefill_step`: most
        tokens of a piece.
        """
        self.cache: list[Any] = make_prompt_cache(model)
        self.found: list[Likelihood] = []
        """Of the prompt's tokens but the first, as far as it was read."""
        self._model, self._prompt = model, prompt
        self._alternatives, self._most = alternatives, prefill_step
        self._step = min(FIRST, prefill_step)

    @property
    def known(self) -> Sequence[int]:
        """The tokens that the cache holds: in the end all but the last one."""
        return self._prompt[: len(self.found)]

    @property
    def unread(self) -> int:
        """Tokens that are still to be read."""
        return len(self._prompt) - 1 - len(self.found)

    def read(self) -> None:
        """Read a piece. Raises what the model raises."""
        begin = len(self.found)
        piece = self._prompt[begin : min(begin + self._step, len(self._prompt) - 1)]
        with mx.stream(generation_stream):
            logits = self._model(mx.array([piece]), cache=self.cache)[0].astype(mx.float32)
            self._step = max(1, min(self._most, LOGITS // logits.shape[-1]))
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            following = self._prompt[begin + 1 : begin + 1 + len(piece)]
            self.found += likelihoods(following, logprobs, self._alternatives)
            mx.eval([one.state for one in self.cache])
        mx.clear_cache()


class Scoring:
    """The requests of a session whose prompts are read so, one after the other."""

    def __init__(self, model: Any, prefill_step: int) -> None:
        """`prefill_step`: most tokens of a piece."""
        self._model, self._prefill_step = model, prefill_step
        self._queue: deque[tuple[Request, Score, PromptScorer]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Request]:
        return (request for request, _, _ in self._queue)

    @property
    def first(self) -> Request:
        """The request whose prompt is read next."""
        return self._queue[0][0]

    def add(self, request: Request, score: Score) -> None:
        """Append a request; all of its prompt is read."""
        scorer = PromptScorer(self._model, request.prompt, score.alternatives, self._prefill_step)
        request.unread = len(request.prompt)
        self._queue.append((request, score, scorer))

    def read(self) -> tuple[Score, PromptScorer] | None:
        """Read a piece of the first prompt; remove its request once there is no more to read.

        Raises what the model raises.
        """
        request, score, scorer = self._queue[0]
        if scorer.unread:
            scorer.read()
            request.unread = scorer.unread + 1
            if request.read is not None:
                request.read(len(scorer.known))
        if scorer.unread:
            return None
        self._queue.popleft()
        return score, scorer

    def remove(self, request: Request) -> None:
        """Remove a request, if it is there."""
        self._queue = deque(one for one in self._queue if one[0] is not request)

    def clear(self) -> None:
        """Remove all."""
        self._queue.clear()
