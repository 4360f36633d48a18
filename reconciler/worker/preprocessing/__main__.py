"""The preprocessing process: `python -m reconciler.worker.preprocessing PID NICE`, started by a
worker.

It reads requests from stdin and writes replies to stdout, one at a time, until stdin is closed. A
request that exceeds its deadline ends the process through the kernel's alarm, which does not need
the GIL.

The process must not outlive its worker, whose process id is PID, even while busy. The worker kills
it; if the worker dies, the daemon kills it, and on Linux so does the kernel. On other systems a
thread polls whether the worker is alive. While C code holds the GIL this thread cannot run, and the
alarm ends the process.

Garbage is collected between requests only. While a body is parsed, the collector would traverse the
result over and over: 5 million lists took ten times as long with it.
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
"""Constant from <linux/prctl.h>."""

LOOK_SECONDS = 1.0
"""Interval between checks that the worker is alive."""


def main() -> None:
    """Serve requests until the worker closes stdin."""
    _end_with(int(sys.argv[1]))
    os.nice(int(sys.argv[2]))
    gc.disable()
    from reconciler.worker.preprocessing.messages import HEADER, MEMORY
    from reconciler.worker.preprocessing.work import Work

    gc.freeze()  # imported modules are permanent
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps library output out of the replies
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
        gc.freeze()  # exempts the remaining objects from later collections
    os._exit(0)  # no state to save


def _answer(work: "Work", requests: IO[bytes], size: int, body_size: int) -> bytes:
    """Read and process the request whose header was read; return the reply frame."""
    from reconciler.worker.preprocessing.messages import Failed, decode_request, reply_frame

    try:
        request = decode_request(requests.read(size), requests.read(body_size))
        return reply_frame(work.answer(request))
    except Exception as error:  # noqa: BLE001  such as MemoryError
        return reply_frame(Failed(f"{type(error).__name__}: {error}"[:500]))


def _end_with(worker: int) -> None:
    """End this process with the worker: through the kernel on Linux, a polling thread elsewhere."""
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
    """End this process once the worker is no longer its parent."""
    while parent() == worker:
        wait(LOOK_SECONDS)
    end(0)


def _limit_memory(more: int) -> None:
    """Limit further allocations to `more` bytes, on Linux; the worker also monitors the memory."""
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
