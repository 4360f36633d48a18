"""Run foreign code, such as a chat template, for a bounded time.

Python cannot end a thread, but it can raise an exception in one: between two of its bytecodes, so
an endless loop ends. What sits in one long call of C code is left behind as a daemon thread.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


_budget = threading.local()
"""`end`: when all calls of this thread have to be done, on the monotonic clock."""


@contextmanager
def budget(seconds: float) -> Iterator[None]:
    """Within it, all calls of this thread together take no longer than `seconds`."""
    before = getattr(_budget, "end", None)
    _budget.end = time.monotonic() + seconds
    try:
        yield
    finally:
        _budget.end = before


class _Expired(BaseException):
    """Ends the code; not an `Exception`, so that the code cannot catch it."""


def call(job: Callable[[], T], seconds: float, what: str) -> T:
    """The result of `job`, run in a thread of its own.

    Raises what `job` raises, or TimeoutError, naming `what`, if it takes longer than `seconds`.
    """
    end = getattr(_budget, "end", None)
    if end is not None:
        seconds = min(seconds, end - time.monotonic())
        if seconds <= 0:
            raise TimeoutError(f"{what} took all of the time that a request has")
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(job())
        except BaseException as error:  # noqa: BLE001  raised again where it was asked for
            errors.append(error)

    thread = threading.Thread(target=run, name="bounded", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if errors:
        raise errors[0]
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_Expired)
        )
    raise TimeoutError(f"{what} did not finish within {seconds:g} s")
