"""Requests that come to a session: what can be answered later is refused as such.

Between being chosen by the daemon and being asked, an instance can be unloaded, and its places and
its memory can be taken by others.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from reconciler.worker.errors import UnavailableError
from reconciler.worker.kv_budget import InsufficientMemoryError
from reconciler.worker.waiting import OverloadedError

S = TypeVar("S")


def session_of(find: Callable[[str], S], name: str) -> S:
    """The session that `find` returns, or raises KeyError for. Raises `UnavailableError`."""
    try:
        return find(name)
    except KeyError:
        message = "the instance has just been unloaded; ask again"
        raise UnavailableError(message, "model_unloaded") from None


@contextmanager
def admitting() -> Iterator[None]:
    """Raise `UnavailableError` where a session has no place or no memory for a request now."""
    try:
        yield
    except OverloadedError as error:
        raise UnavailableError(str(error), "overloaded") from None
    except InsufficientMemoryError as error:
        raise UnavailableError(str(error), "insufficient_memory") from None
