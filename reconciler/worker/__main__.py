"""Start a worker: `python -m reconciler.worker SOCKET`, spoken to by the daemon.

Three threads: the main one owns MLX, whose streams belong to the thread that made them; one
serves HTTP; one waits for the daemon's end of the pipe on stdin to close, which is how its
death is seen even while MLX is busy.
"""

import os
import sys
import threading

import msgspec

from reconciler.core.protocol import Hello


def main() -> None:
    """Run until the daemon closes stdin."""
    hello_fd = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for the hello
    threading.Thread(target=_die_with_the_daemon, name="lifeline", daemon=True).start()

    from reconciler.worker import backend, force
    from reconciler.worker.model import Model
    from reconciler.worker.server import serve
    from reconciler.worker.thread import MlxThread

    force.install()
    backend.keep_no_buffers()
    model = Model()
    mlx = MlxThread(model.step)
    serve(sys.argv[1], model, mlx)
    hello = Hello(os.getpid(), backend.machine())
    with os.fdopen(hello_fd, "wb") as out:
        out.write(msgspec.json.encode(hello) + b"\n")
    mlx.run()


def _die_with_the_daemon() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
