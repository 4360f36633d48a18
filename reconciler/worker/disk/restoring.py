"""Requests whose prompts are being read from disk: admitted, but not in the generator yet.

Their memory is reserved meanwhile, so what is read has room. A request goes on without a stored
prompt if none can be read in time.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.worker.disk import layout
from reconciler.worker.disk.scope import LEAST, Scope
from reconciler.worker.pending import Request, Stored

if TYPE_CHECKING:
    from reconciler.worker.disk.fetches import Fetch

Post = Callable[[Callable[[], None]], Any]
"""Runs a job on the MLX thread. Thread-safe."""


class Restoring:
    """Requests that wait for the disk. MLX thread only, except `copy`."""

    def __init__(self, scope: Scope | None, post: Post, insert: Callable[[Request], None]) -> None:
        """`scope`: the stored prompts, if there are any; `insert` is called for each request once
        its prompt was read, or could not be.
        """
        self._scope, self._post, self._insert = scope, post, insert
        self._fetches: dict[Request, Fetch] = {}

    def copy(self) -> list[Request]:
        """Return the requests. Thread-safe."""
        return list(self._fetches.copy())

    def begin(self, request: Request, known: Callable[[Sequence[int]], int]) -> bool:
        """Read a request's prompt; False if less than enough is stored beyond its `known` tokens.

        `known`: the number of a prompt's tokens in memory.
        """
        if self._scope is None or not request.kept or len(request.prompt) <= LEAST:
            return False

        def done(stored: layout.Stored | None) -> None:
            self._post(lambda: self._end(request, stored))

        fetch = self._scope.fetch(request.prompt, known(request.prompt), done)
        if fetch is None:
            return False
        self._fetches[request] = fetch
        return True

    def remove(self, request: Request) -> bool:
        """Remove a request; False if it is not there."""
        fetch = self._fetches.pop(request, None)
        if fetch is not None:
            fetch.cancel()
        return fetch is not None

    def clear(self) -> None:
        """Remove all requests."""
        for request in list(self._fetches):
            self.remove(request)

    def _end(self, request: Request, stored: layout.Stored | None) -> None:
        if self._fetches.pop(request, None) is None or self._scope is None:
            return
        if stored is not None:
            request.stored = self._joined(self._scope, stored)
        self._insert(request)

    @staticmethod
    def _joined(scope: Scope, stored: layout.Stored) -> Stored | None:
        try:
            return Stored(stored.tokens, layout.join(scope.make(), stored))
        except Exception:  # noqa: BLE001  the prompt is computed instead
            return None
