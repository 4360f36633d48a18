"""The preprocessing process: `python -m reconciler.worker.preprocessing PID NICE`, started by a
worker.

It reads requests from stdin and writes the answers to stdout, one after the other, until stdin is
closed. A request that takes too long ends the process by the kernel's alarm, which needs no lock of
Python's. It is not to outlive its worker, whose process id is PID, however busy it is: the worker
kills it, the daemon kills what a dead worker leaves, and on Linux the kernel does. Elsewhere a
thread looks whether the worker is there, which works unless C code holds Python's lock: then the
alarm ends it.

Garbage is collected between requests. Meanwhile the collector would look again and again at what a
body is parsed into: 5 million lists took ten times as long with it.
"""

import ctypes
import gc
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.worker.preprocessing.work import Work

PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""

LOOK_SECONDS = 1.0
"""Between looks whether the worker is there."""


def main() -> None:
    """Answer until the worker closes stdin."""
    _end_with(int(sys.argv[1]))
    os.nice(int(sys.argv[2]))
    gc.disable()
    from reconciler.worker.preprocessing.messages import HEADER, MEMORY
    from reconciler.worker.preprocessing.work import Work

    gc.freeze()  # what is imported stays
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    requests = os.fdopen(0, "rb", closefd=False)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    _limit_memory(2 * MEMORY)
    work = Work()
    while len(header := requests.read(HEADER.size)) == HEADER.size:
        size, body_size, seconds = HEADER.unpack(header)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        frame = _answer(work, requests, size, body_size)
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(frame)
        replies.flush()
        gc.collect()
        gc.freeze()  # what is left is kept, and need not be looked at again
    os._exit(0)  # there is nothing to save


def _answer(work: "Work", requests: IO[bytes], size: int, body_size: int) -> bytes:
    """The frame that answers the one whose header was read."""
    from reconciler.worker.preprocessing.messages import Failed, decode_request, reply_frame

    try:
        request = decode_request(requests.read(size), requests.read(body_size))
        return reply_frame(work.answer(request))
    except Exception as error:  # noqa: BLE001  such as MemoryError
        return reply_frame(Failed(f"{type(error).__name__}: {error}"[:500]))


def _end_with(worker: int) -> None:
    """Have this process end when the worker does: by the kernel on Linux, by a thread elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=end_without, args=(worker,), daemon=True).start()
    if os.getppid() != worker:
        os._exit(0)


def end_without(
    worker: int,
    parent: Callable[[], int] = os.getppid,
    wait: Callable[[float], object] = time.sleep,
    end: Callable[[int], object] = os._exit,
) -> None:
    """End this process once its parent is not the worker any more."""
    while parent() == worker:
        wait(LOOK_SECONDS)
    end(0)


def _limit_memory(more: int) -> None:
    """Let an allocation fail that takes `more` bytes, on Linux; the worker watches besides."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except OSError:
        return
    limit = pages * resource.getpagesize() + more
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    main()
