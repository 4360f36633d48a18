"""Start a worker: `python -m reconciler.worker WIRED-LIMIT SOCKET`, spoken to by the daemon.

Requests are made into prompts by a child process (`preprocessing`). Three threads: the main one
owns MLX, whose streams belong to the thread that made them; one serves HTTP; one waits for the
daemon's end of the pipe on stdin to close, which is how its death is seen even while MLX is busy.
When the main one ends, the process does, at once: one that answers but cannot generate is
worse than none.
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
    from reconciler.worker.thread import MlxThread

SWITCH_SECONDS = 0.0005
"""That a thread may run Python while another one waits; a tenth of CPython's default."""


def main() -> None:
    """Run until the daemon closes stdin."""
    hello_fd = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for the hello
    threading.Thread(target=_die_with_the_daemon, name="lifeline", daemon=True).start()

    # What is imported stays: looking for garbage in it takes a sixth of the time that it takes.
    gc.disable()
    from reconciler.worker.preprocessing.pool import Preprocessor

    preprocessor = Preprocessor()
    preprocessor.start()  # its imports run beside those below
    # The MLX thread runs Python for milliseconds; the thread that answers would wait 5 ms for it.
    sys.setswitchinterval(SWITCH_SECONDS)
    from reconciler.worker import descriptors, quick_imports

    descriptors.keep()
    quick_imports.install()

    from reconciler.worker import backend, overrides, wired
    from reconciler.worker.heartbeat import Heartbeat
    from reconciler.worker.model import Model
    from reconciler.worker.server import serve
    from reconciler.worker.thread import MlxThread

    gc.freeze()
    gc.enable()
    overrides.install()
    backend.keep_no_buffers()
    wired.install()
    limit = wired.apply(sys.argv[1])
    heartbeat = Heartbeat()
    model = Model(heartbeat, preprocessor)
    mlx = MlxThread(model.step, heartbeat)
    own, child = backend.resident(), preprocessor.memory()
    machine = backend.machine(limit, own + child)
    serve(sys.argv[2], model, mlx, heartbeat, lambda: backend.memory(own) + preprocessor.memory())
    hello = Hello(os.getpid(), machine)
    with os.fdopen(hello_fd, "wb") as out:
        out.write(msgspec.json.encode(hello) + b"\n")
    _generate(mlx)


def _generate(mlx: "MlxThread") -> NoReturn:
    """Run the MLX thread's work; however it ends, nothing else of the process goes on."""
    try:
        mlx.run()
    except BaseException:  # noqa: BLE001  a signal's too; whatever it is, the daemon's log has it
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        _exit(GENERATION_DIED)


def _die_with_the_daemon() -> None:
    while os.read(0, 4096):
        pass
    _exit(0)


def _exit(status: int) -> NoReturn:
    """End at once, with the processes that this one has started."""
    if (process := sys.modules.get("reconciler.worker.preprocessing.process")) is not None:
        process.kill_all()
    os._exit(status)


if __name__ == "__main__":
    main()
