"""Who else on this machine may read what the daemon keeps: its state, and the token."""

import stat
from collections.abc import Collection
from pathlib import Path

import structlog

from reconciler.store.database import NAME

log = structlog.get_logger()

OTHERS = 0o077
"""Permissions of the group and of everybody."""

OURS = frozenset({NAME, "lock"})


def keep_state_private(directory: Path, uid: int) -> None:
    """Take a state directory's permissions from others if it is ours, else warn of them.

    Ours is one that belongs to `uid` and is empty or holds a database of the daemon: a directory
    that serves other ends too, such as /tmp, is left as it is. Raises nothing.
    """
    try:
        found = directory.stat()
        names = {path.name for path in directory.iterdir()} if found.st_mode & OTHERS else set()
    except OSError:
        return  # it is not there yet, or cannot be used, which is said where it is opened
    mode = stat.S_IMODE(found.st_mode)
    if not mode & OTHERS:
        return
    if found.st_uid == uid and not mode & stat.S_ISVTX and _is_ours(names):
        try:
            directory.chmod(mode & ~OTHERS)
        except OSError:
            pass
        else:
            log.warning("state directory is closed to others now", path=str(directory))
            return
    fix = f"chmod 700 {directory}"
    log.warning("others may look into the state directory", path=str(directory), fix=fix)


def warn_of_public_token(path: Path) -> None:
    """Warn if others may read the token, or replace it. Raises OSError."""
    if path.stat().st_mode & OTHERS:
        fix = f"chmod 600 {path}"
        log.warning("others may read the token file", path=str(path), fix=fix)


def _is_ours(names: Collection[str]) -> bool:
    return not names or any(name in OURS for name in names)
