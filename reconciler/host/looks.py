"""Blocking file access outside the event loop: with a deadline, and without delaying an exit.

A system call on a dead mount hangs in the kernel until the mount responds. asyncio waits for its
own threads when the loop is closed and when the interpreter exits, so one such call would keep the
process from exiting. Here every call has its own daemon thread: one that hangs takes no thread from
the others and is abandoned at exit.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonThreads(ThreadPoolExecutor):
    """Executor with a daemon thread for each call; a hung call is never waited for.

    It must be a `ThreadPoolExecutor`: an event loop accepts nothing else as its default.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  the caller handles it
                future.set_exception(error)
            else:
                future.set_result(result)

        threading.Thread(target=call, name="look", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Return at once: its threads end with the process."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, on a loop whose threads never keep the process from exiting."""
    with asyncio.Runner() as runner:
        runner.get_loop().set_default_executor(DaemonThreads())
        return runner.run(main)


async def look(function: Callable[..., T], *args: Any, seconds: float) -> T:
    """Run `function(*args)`, which may block, in a thread, and return its result.

    Raises what it raises, or TimeoutError if it takes longer than `seconds`; its thread is then
    abandoned.
    """
    try:
        return await asyncio.wait_for(asyncio.to_thread(function, *args), seconds)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer within {seconds:g} s") from None
