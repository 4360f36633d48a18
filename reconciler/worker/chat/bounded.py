"""Runs untrusted code, such as a chat template, with a time limit.

Python cannot end a thread, but it can raise an exception in one between two bytecodes, which ends
an endless loop. A thread inside one long call of C code keeps running as a daemon thread.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

LOOK_SECONDS = 0.05
"""Interval between looks at the CPU time."""


_budget = threading.local()
"""`end`: deadline of all calls of this thread, on the monotonic clock [s]."""

_threads: list[threading.Thread] = []
"""Threads that were abandoned."""


def is_running() -> bool:
    """True if code that took too long still runs."""
    _threads[:] = [thread for thread in _threads if thread.is_alive()]
    return bool(_threads)


@contextmanager
def budget(seconds: float) -> Iterator[None]:
    """Limit the total time of all calls of this thread inside the context to `seconds`."""
    before = getattr(_budget, "end", None)
    _budget.end = time.monotonic() + seconds
    try:
        yield
    finally:
        _budget.end = before


class _Expired(BaseException):
    """Ends the code. Not an `Exception`, so that the code cannot catch it."""


def call(job: Callable[[], T], seconds: float, what: str, cpu_seconds: float | None = None) -> T:
    """Run `job` in a thread of its own and return its result.

    Propagates the exceptions of `job`. Raises TimeoutError, which names `what`, if it takes longer
    than `seconds`, or this process uses more CPU time than `cpu_seconds` meanwhile.
    """
    end = getattr(_budget, "end", None)
    if end is not None:
        seconds = min(seconds, end - time.monotonic())
        if seconds <= 0:
            raise TimeoutError(f"{what} used up the time limit of the request")
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(job())
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="bounded", daemon=True)
    thread.start()
    _wait(thread, seconds, cpu_seconds)
    if results:
        return results[0]
    if errors:
        raise errors[0]
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(_Expired)
        )
    _threads.append(thread)
    raise TimeoutError(f"{what} did not finish within {seconds:g} s")


def _wait(thread: threading.Thread, seconds: float, cpu_seconds: float | None) -> None:
    """Wait until the thread ends, or a limit is exceeded."""
    if cpu_seconds is None:
        thread.join(seconds)
        return
    end, cpu_end = time.monotonic() + seconds, time.process_time() + cpu_seconds
    while thread.is_alive() and time.monotonic() < end and time.process_time() < cpu_end:
        thread.join(LOOK_SECONDS)
