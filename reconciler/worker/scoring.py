"""Prefill a prompt and record the likelihood of each of its tokens.

mlx-lm's generators discard the logits of a prompt. So a prompt whose log-probabilities are
requested is prefilled alone, in chunks, as a generator does. The resulting cache is passed on to a
generator: nothing is computed twice.
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
"""Maximum size of a chunk's logits: 32 MB in float32, or 55 tokens of a vocabulary of 150,000."""

FIRST = 16
"""Tokens of the first chunk, which shows the size of the vocabulary."""


class PromptScorer:
    """Prefills one prompt. MLX thread only."""

    def __init__(
        self, model: Any, prompt: Sequence[int], alternatives: int, prefill_step: int
    ) -> None:
        """`alternatives`: most likely tokens to report at each position; `prefill_step`: maximum
        tokens of a chunk.
        """
        self.cache: list[Any] = make_prompt_cache(model)
        self.found: list[Likelihood] = []
        """Likelihoods of the prompt's tokens but the first, as far as it is prefilled."""
        self._model, self._prompt = model, prompt
        self._alternatives, self._most = alternatives, prefill_step
        self._step = min(FIRST, prefill_step)

    @property
    def known(self) -> Sequence[int]:
        """Tokens that the cache holds: at the end all but the last one."""
        return self._prompt[: len(self.found)]

    @property
    def unread(self) -> int:
        """Number of tokens still to prefill."""
        return len(self._prompt) - 1 - len(self.found)

    def read(self, most: int) -> None:
        """Prefill a chunk of at most `most` tokens. Propagates the model's exceptions."""
        begin = len(self.found)
        end = min(begin + min(self._step, most), len(self._prompt) - 1)
        piece = self._prompt[begin:end]
        with mx.stream(generation_stream):
            logits = self._model(mx.array([piece]), cache=self.cache)[0].astype(mx.float32)
            self._step = max(1, min(self._most, LOGITS // logits.shape[-1]))
            logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
            following = self._prompt[begin + 1 : begin + 1 + len(piece)]
            self.found += likelihoods(following, logprobs, self._alternatives)
            mx.eval([one.state for one in self.cache])
        mx.clear_cache()


class Scoring:
    """Queue of a session's requests whose prompts are scored, one at a time."""

    def __init__(self, model: Any, prefill_step: int) -> None:
        """`prefill_step`: maximum tokens of a chunk."""
        self._model, self._prefill_step = model, prefill_step
        self._queue: deque[tuple[Request, Score, PromptScorer]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def __iter__(self) -> Iterator[Request]:
        # Of a copy, made in one go: other threads ask too.
        return (request for request, _, _ in tuple(self._queue))

    @property
    def first(self) -> Request:
        """Request whose prompt is prefilled next."""
        return self._queue[0][0]

    def add(self, request: Request, score: Score) -> None:
        """Append a request. Its whole prompt is prefilled, without cached tokens."""
        scorer = PromptScorer(self._model, request.prompt, score.alternatives, self._prefill_step)
        request.unread = len(request.prompt)
        self._queue.append((request, score, scorer))

    def read(self, most: int) -> tuple[Score, PromptScorer] | None:
        """Prefill at most `most` tokens of the first prompt; remove its request at the end of it.

        Propagates the model's exceptions.
        """
        request, score, scorer = self._queue[0]
        if scorer.unread:
            scorer.read(most)
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
        """Remove all requests."""
        self._queue.clear()
