"""`python -m benchmarks.slices serve ...`: run the daemon, print long event-loop steps to stderr.

A step delays all clients of the daemon. It is measured in CPU time of the loop's own thread, to
which other programs do not add, and printed if it is longer than `LIMIT_SECONDS`.
"""

import asyncio
import sys
import threading
import time
from typing import Any

LIMIT_SECONDS = 0.03


def watch(limit: float = LIMIT_SECONDS) -> None:
    """Print steps of the main thread's event loop that take longer than `limit` seconds."""
    steps: Any = asyncio.Handle  # its private method is the only place that sees each step
    run = steps._run  # noqa: SLF001

    def timed(handle: Any) -> None:
        begin = time.thread_time()
        run(handle)
        seconds = time.thread_time() - begin
        if seconds > limit and threading.current_thread() is threading.main_thread():
            print(f"step of {seconds * 1000:.0f} ms: {_of(handle)}", file=sys.stderr, flush=True)

    steps._run = timed  # noqa: SLF001


def _of(handle: Any) -> str:
    """Owner of a step: its task or its callback."""
    callback = handle._callback  # noqa: SLF001
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return f"{owner.get_coro()!r}"
    return repr(callback)


if __name__ == "__main__":
    from reconciler.cli import main

    watch()
    sys.argv[0] = "reconciler"
    main()
