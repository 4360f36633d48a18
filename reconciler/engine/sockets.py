"""The private directory of the workers' sockets, and the clean-up after a killed daemon."""

import os
import shutil
import stat
from hashlib import sha256
from pathlib import Path

import psutil
import structlog

log = structlog.get_logger()

LONGEST_PATH = 103
"""Maximum length of a socket path on macOS in bytes, without the terminating zero."""

SHORT = Path("/tmp")  # noqa: S108  used if the state directory's path is too long

KILL_SECONDS = 10.0


def prepare(state: Path) -> Path:
    """Create a fresh directory for the daemon that holds the lock on the state directory `state`.

    Its name is derived from `state`, so that a daemon finds the remains of a killed predecessor:
    workers that have not exited yet are killed and waited for, since they hold memory.
    Raises OSError if another user owns the directory.
    """
    path = _place(state.resolve())
    try:
        found = path.lstat()
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(0, f"{path} belongs to another user; remove it")
        _kill_workers(path)
        shutil.rmtree(path)
    path.mkdir(mode=0o700)
    return path


def _place(state: Path) -> Path:
    path = state / "run"
    if len(os.fsencode(path / "1234567890.sock")) <= LONGEST_PATH:
        return path
    digest = sha256(os.fsencode(state)).hexdigest()[:12]
    return SHORT / f"reconciler-{os.getuid()}-{digest}"


def _kill_workers(path: Path) -> None:
    """Kill the workers whose socket lies in `path`, found by their command line."""
    left = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(Path(word).parent == path for word in process.info["cmdline"] or ())
    ]
    for process in left:
        log.warning("killing a worker left by a previous daemon", pid=process.pid)
        process.kill()
    psutil.wait_procs(left, timeout=KILL_SECONDS)


def remove(path: Path) -> None:
    """Remove the directory after its workers have ended."""
    shutil.rmtree(path, ignore_errors=True)
