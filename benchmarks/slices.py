"""`python -m benchmarks.slices serve ...`: the daemon, with each long step of its loop on stderr.

A step keeps everybody who asks the daemon waiting. It is measured in CPU time of the loop's own
thread, which other programs on the machine do not add to, and told when it is longer than
`LIMIT_SECONDS`.
"""

import asyncio
import sys
import threading
import time
from typing import Any

LIMIT_SECONDS = 0.03


def watch(limit: float = LIMIT_SECONDS) -> None:
    """Tell steps of the main thread's event loop that take longer than `limit` seconds."""
    steps: Any = asyncio.Handle  # by its private method: nothing else sees each step
    run = steps._run  # noqa: SLF001

    def timed(handle: Any) -> None:
        begin = time.thread_time()
        run(handle)
        seconds = time.thread_time() - begin
        if seconds > limit and threading.current_thread() is threading.main_thread():
            print(f"step of {seconds * 1000:.0f} ms: {_of(handle)}", file=sys.stderr, flush=True)

    steps._run = timed  # noqa: SLF001


def _of(handle: Any) -> str:
    """What a step belongs to: its task, or its callback."""
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
