"""Usage of a session: tokens, cached tokens and times to the first token."""

import time
from dataclasses import replace

from reconciler.core.protocol import Speculated, Usage
from reconciler.worker.pending import Request


class Counter:
    """Counts the usage of one session. MLX thread only, except `usage`."""

    def __init__(self) -> None:
        self.usage = Usage()
        """Replaced by each count. Thread-safe."""

    def count_prompt(self, request: Request, cached: int) -> None:
        """Count a prompt when its request is first admitted.

        `cached`: those of its tokens that were found in the prompt cache.
        """
        if request.cached_tokens is not None:
            return
        request.cached_tokens = cached
        if request.counted and request.follows is None:
            self._add(prompt=len(request.prompt), cached=cached, disk=request.disk_tokens)

    def count_tokens(self, number: int) -> None:
        """Count generated tokens."""
        self._add(completion=number)

    def count_first(self, request: Request) -> None:
        """Record the time to first token of a client's request."""
        if request.asked is not None:
            first = self.usage.first_tokens.with_one(time.monotonic() - request.asked)
            self.usage = replace(self.usage, first_tokens=first)

    def set_speculated(self, count: Speculated) -> None:
        """Replace the counts of drafts."""
        self.usage = replace(self.usage, speculated=count)

    def _add(self, prompt: int = 0, completion: int = 0, cached: int = 0, disk: int = 0) -> None:
        if not prompt + completion:
            return
        before = self.usage
        self.usage = replace(
            before,
            prompt_tokens=before.prompt_tokens + prompt,
            completion_tokens=before.completion_tokens + completion,
            cached_tokens=before.cached_tokens + cached,
            disk_tokens=before.disk_tokens + disk,
        )
