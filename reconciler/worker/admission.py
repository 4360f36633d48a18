"""Admission of requests to a session: temporary failures raise an error that clients can retry.

Between the daemon's choice of an instance and the arrival of the request, the instance can be
unloaded, and other requests can take its slots and its memory.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from reconciler.worker.errors import UnavailableError
from reconciler.worker.kv_budget import InsufficientMemoryError
from reconciler.worker.waiting import OverloadedError

S = TypeVar("S")


def session_of(find: Callable[[str], S], name: str) -> S:
    """Return `find(name)`. Raises `UnavailableError` if `find` raises KeyError."""
    try:
        return find(name)
    except KeyError:
        message = "the instance has just been unloaded; retry the request"
        raise UnavailableError(message, "model_unloaded") from None


@contextmanager
def admitting() -> Iterator[None]:
    """Raise `UnavailableError` if a session has no slot or no memory for a request now."""
    try:
        yield
    except OverloadedError as error:
        raise UnavailableError(str(error), "overloaded") from None
    except InsufficientMemoryError as error:
        raise UnavailableError(str(error), "insufficient_memory") from None
