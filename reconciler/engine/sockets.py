"""The private directory of the workers' sockets, and what a killed daemon left in it."""

import os
import shutil
import stat
from hashlib import sha256
from pathlib import Path

import psutil
import structlog

log = structlog.get_logger()

PARENT = Path("/tmp")  # noqa: S108  a socket's path has 104 bytes on macOS, too few for TMPDIR
KILL_SECONDS = 10.0


def prepare(state: Path) -> Path:
    """A fresh directory for the daemon that holds the lock on the state directory `state`.

    Its name follows from `state`, so that a daemon finds what its killed predecessor left:
    workers that have not noticed yet are killed and waited for, since they hold memory.
    Raises OSError where somebody else made the directory.
    """
    digest = sha256(str(state.resolve()).encode()).hexdigest()[:12]
    path = PARENT / f"reconciler-{os.getuid()}-{digest}"
    try:
        found = path.lstat()
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(0, f"{path} belongs to somebody else; remove it")
        _kill_workers(path)
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    return path


def _kill_workers(path: Path) -> None:
    """End the workers whose socket lies in `path`, as their command line tells."""
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(Path(word).parent == path for word in process.info["cmdline"] or ())
    ]
    for process in left:
        log.warning("killing a worker that a former daemon left", pid=process.pid)
        process.kill()
    psutil.wait_procs(left, timeout=KILL_SECONDS)


def remove(path: Path) -> None:
    """Remove the directory, once its workers have ended."""
    shutil.rmtree(path, ignore_errors=True)
