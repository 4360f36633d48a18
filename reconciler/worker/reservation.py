"""Tokens of KV cache that a session reserves for each of its requests.

A request with a limit reserves its prompt and all tokens that it may generate. One without a limit
reserves `OPEN_ENDED` tokens at a time, and may be preempted when it needs more.
"""

from reconciler.worker.kv_budget import InsufficientMemoryError, KVBudget
from reconciler.worker.pending import Request

OPEN_ENDED = 1024
"""Tokens of KV cache that are reserved at a time for a request without a limit."""


class ContextLengthExceededError(ValueError):
    """Prompt and completion would not fit in the session's context length."""


class Reservations:
    """Reserves tokens for the requests of one session."""

    def __init__(self, budget: KVBudget, context_length: int) -> None:
        self._budget, self._context = budget, context_length

    def check(self, request: Request) -> None:
        """Raise an error for a request that cannot run even alone.

        Raises `ContextLengthExceededError` or `InsufficientMemoryError`.
        """
        asked = request.max_tokens
        if request.length + (asked or 1) > self._context:
            raise ContextLengthExceededError(
                f"{request.length} prompt tokens and {asked or 1} more exceed the context length "
                f"of {self._context}"
            )
        if (problem := self._too_long(request, asked or 1)) is not None:
            raise problem

    def begin(self, request: Request) -> None:
        """Set the number of tokens that a new request may generate."""
        most = min(self._context, self._budget.most_tokens())
        request.left = request.max_tokens or most - request.length

    def reserve(self, request: Request) -> None:
        """Reserve tokens for a request that is next to be admitted."""
        left = request.left if request.max_tokens else min(request.left, OPEN_ENDED)
        request.reserved = request.length + left

    def reserve_alone(self, request: Request) -> InsufficientMemoryError | None:
        """Reserve what there is for a request that does not fit, while nothing else runs.

        Returns the error if memory was recalled since it arrived, and is too little now.
        """
        more = request.left if request.max_tokens else 1
        if (problem := self._too_long(request, more)) is not None:
            return problem
        if not request.max_tokens:
            request.left = min(request.left, self._budget.most_tokens() - request.length)
            request.reserved = min(request.reserved, request.length + request.left)
        return None

    def is_used_up(self, request: Request) -> bool:
        """True if a running request has no reserved token left."""
        return request.length >= request.reserved

    def extend(self, request: Request) -> None:
        """Reserve the next tokens of a running request."""
        request.reserved = request.length + min(request.left, OPEN_ENDED)

    def limit(self, request: Request) -> None:
        """Limit the reservation of a request that runs alone to the memory that there is."""
        most = self._budget.most_tokens()
        request.reserved = max(request.length, min(request.reserved, most))

    def end_alone(self, request: Request) -> str | None:
        """The finish reason of a request that runs alone and whose memory was recalled, or None."""
        if request.max_tokens or not self.is_used_up(request):
            return None
        return "length" if request.length >= self._budget.most_tokens() else None

    def _too_long(self, request: Request, more: int) -> InsufficientMemoryError | None:
        """Error for a request that would not fit now even if nothing else ran; None if it fits."""
        most = self._budget.most_tokens()
        if request.length + more <= most:
            return None
        return InsufficientMemoryError(
            f"{request.length} prompt tokens and {more} more need more memory than "
            f"this machine has free now, which is enough for {most} tokens"
        )
