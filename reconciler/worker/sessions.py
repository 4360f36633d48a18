"""The open sessions of a worker: lookups by name, and whose turn is next.

Of the busy sessions, the one with the least thread time is stepped.
"""

import time
from collections.abc import Callable

import mlx.core as mx

from reconciler.core.protocol import Activity, Recall, Usage
from reconciler.worker.embedding.session import EmbeddingRequest, EmbeddingSession
from reconciler.worker.memory_limit import MemoryLimit
from reconciler.worker.pending import Request
from reconciler.worker.session import Session
from reconciler.worker.stalls import StallBudget


class Sessions:
    """Open sessions by name. MLX thread only, except for members marked thread-safe."""

    def __init__(self, shared_bytes: Callable[[], int], stall_budget: StallBudget) -> None:
        """`shared_bytes` returns the memory for what sessions share [bytes]."""
        self._sessions: dict[str, Session | EmbeddingSession] = {}
        self._stall_budget = stall_budget
        self._limit = MemoryLimit()
        self._shared_bytes = shared_bytes
        self._floor = 0.0
        """Thread time of the last stepped session before its step [s]."""

    def usage(self) -> dict[str, Usage]:
        """Usage by session. Thread-safe."""
        # Iterates over an atomic copy: sessions open and close meanwhile.
        return {name: session.usage for name, session in self._sessions.copy().items()}

    def activity(self) -> dict[str, Activity]:
        """The KV cache of each session. Also for other threads."""
        sessions = self._sessions.copy().items()
        return {name: Activity(one.kv_bytes, one.kept_bytes) for name, one in sessions}

    def kept_bytes(self) -> int:
        """Size of all sessions' prompt caches [bytes]. Thread-safe."""
        return sum(session.kept_bytes for session in self._sessions.copy().values())

    def recall(self, command: Recall) -> dict[str, int]:
        """Lower leases; return the memory that each session still uses beyond its reservation."""
        return {
            name: self._sessions[name].recall(lease)
            for name, lease in command.leases.items()
            if name in self._sessions
        }

    def session(self, name: str) -> Session:
        """Find an open session that generates text. Raises KeyError."""
        session = self._sessions[name]
        if isinstance(session, EmbeddingSession):
            raise KeyError(name)
        return session

    def embedding_session(self, name: str) -> EmbeddingSession:
        """Find an open embedding session. Raises KeyError."""
        session = self._sessions[name]
        if isinstance(session, Session):
            raise KeyError(name)
        return session

    def context_length(self, name: str) -> int | None:
        """Context length of a session [tokens]; None if it is closed. Thread-safe."""
        session = self._sessions.get(name)
        return None if session is None else session.config.context_length

    def cancel(self, name: str, request: Request | EmbeddingRequest) -> None:
        """Cancel a request, if its session is still open."""
        session = self._sessions.get(name)
        if isinstance(session, EmbeddingSession):
            if isinstance(request, EmbeddingRequest):
                session.cancel(request)
        elif session is not None and isinstance(request, Request):
            session.cancel(request)

    def step(self) -> bool:
        """Step the session with the least thread time; False if no session was busy."""
        busy = [session for session in self._sessions.values() if session.busy]
        if not busy:
            return False
        for session in busy:  # a session gets no credit for idle time
            session.seconds = max(session.seconds, self._floor)
        session = min(busy, key=lambda s: s.seconds)
        self._floor = session.seconds
        begin = time.monotonic()
        self._limit.set(session, self._sessions.values(), self._shared_bytes())
        if isinstance(session, Session):
            texts = [other for other in busy if isinstance(other, Session)]
            session.step(self._stall_budget.of_step(texts))
        else:
            session.step()
        session.seconds += time.monotonic() - begin
        if not any(s.busy for s in self._sessions.values()):
            # No work is left to reuse cached GPU buffers for, and they count as used memory.
            mx.clear_cache()
        return True

    def probe(self, name: str) -> None:
        """Generate one token. Propagates the model's exceptions.

        Does nothing if the session is closed, or if any session is busy: its requests then show
        whether the model works.
        """
        session = self._sessions.get(name)
        if session is not None and not any(s.busy for s in self._sessions.values()):
            session.probe()
