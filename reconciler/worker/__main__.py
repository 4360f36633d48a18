"""Start a worker: `python -m reconciler.worker WIRED-LIMIT STALL-BUDGET SOCKET`.

The daemon runs this command.

A child process (`preprocessing`) turns requests into prompts. The worker has three threads:

- the main thread owns MLX, because MLX streams belong to the thread that created them;
- the HTTP thread serves the socket;
- the lifeline thread blocks on stdin, a pipe from the daemon. End of file means that the daemon
  has exited, which is detected even while MLX is busy.

The process exits as soon as the main thread ends: a worker that responds but cannot generate is
worse than no worker.
"""

import gc
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, NoReturn

import msgspec

from reconciler.core.protocol import GENERATION_DIED, Hello

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.worker.thread import MlxThread

SWITCH_SECONDS = 0.0005
"""Time after which a thread must yield the GIL to another one; a tenth of CPython's default."""


def main() -> None:
    """Run until the daemon closes stdin."""
    hello_fd = os.dup(1)
    os.dup2(2, 1)  # the output of a library must not be parsed as the hello
    before_end: list[Callable[[], None]] = []
    threading.Thread(
        target=_die_with_the_daemon, args=(before_end,), name="lifeline", daemon=True
    ).start()

    # Imported modules are never freed, and garbage collection takes a sixth of the import time.
    gc.disable()
    from reconciler.worker.preprocessing.pool import Preprocessor

    preprocessor = Preprocessor()
    preprocessor.start()  # its imports run in parallel with those below
    # The MLX thread runs Python for milliseconds; the HTTP thread would wait 5 ms by default.
    sys.setswitchinterval(SWITCH_SECONDS)
    from reconciler.worker import descriptors, quick_imports

    descriptors.keep()
    quick_imports.install()

    from reconciler.worker import backend, overrides, wired
    from reconciler.worker.heartbeat import Heartbeat
    from reconciler.worker.model import Model
    from reconciler.worker.server import FLUSH_SECONDS, serve
    from reconciler.worker.stalls import StallBudget
    from reconciler.worker.thread import MlxThread

    gc.freeze()
    gc.enable()
    overrides.install()
    backend.keep_no_buffers()
    wired.install()
    limit = wired.apply(sys.argv[1])
    heartbeat = Heartbeat()
    model = Model(heartbeat, preprocessor, StallBudget(float(sys.argv[2])))
    mlx = MlxThread(model.step, heartbeat)
    model.post = mlx.submit
    before_end.append(lambda: model.flush(FLUSH_SECONDS))
    own, child = backend.resident(), preprocessor.memory()
    machine = backend.machine(limit, own + child)
    serve(sys.argv[3], model, mlx, heartbeat, lambda: backend.memory(own) + preprocessor.memory())
    hello = Hello(os.getpid(), machine)
    with os.fdopen(hello_fd, "wb") as out:
        out.write(msgspec.json.encode(hello) + b"\n")
    _generate(mlx)


def _generate(mlx: "MlxThread") -> NoReturn:
    """Run the MLX thread's jobs, and exit the process when they end for any reason."""
    try:
        mlx.run()
    except BaseException:  # noqa: BLE001  includes signals; the daemon logs the traceback
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        _exit(GENERATION_DIED)


def _die_with_the_daemon(before_end: "list[Callable[[], None]]") -> None:
    """Exit at end of file on stdin, after the jobs of `before_end`, which take limited time."""
    while os.read(0, 4096):
        pass
    try:
        for job in before_end:
            job()
    finally:
        _exit(0)


def _exit(status: int) -> NoReturn:
    """Exit immediately and kill the child processes."""
    if (process := sys.modules.get("reconciler.worker.preprocessing.process")) is not None:
        process.kill_all()
    os._exit(status)


if __name__ == "__main__":
    main()
