"""File permissions of the daemon's state directory and token file."""

import stat
from collections.abc import Collection
from pathlib import Path

import structlog

from reconciler.store.database import NAME

log = structlog.get_logger()

OTHERS = 0o077
"""Permission bits of the group and of others."""

OURS = frozenset({NAME, "lock"})


def keep_state_private(directory: Path, uid: int) -> None:
    """Remove other users' permissions from the daemon's state directory, or warn of them.

    The permissions change only if the directory belongs to `uid` and is empty or holds the daemon's
    database: a shared directory, such as /tmp, is left unchanged. Raises nothing.
    """
    try:
        found = directory.stat()
        names = {path.name for path in directory.iterdir()} if found.st_mode & OTHERS else set()
    except OSError:
        return  # missing or unusable; opening it reports the error
    mode = stat.S_IMODE(found.st_mode)
    if not mode & OTHERS:
        return
    if found.st_uid == uid and not mode & stat.S_ISVTX and _is_ours(names):
        try:
            directory.chmod(mode & ~OTHERS)
        except OSError:
            pass
        else:
            log.warning("state directory is now private", path=str(directory))
            return
    fix = f"chmod 700 {directory}"
    log.warning("other users may read the state directory", path=str(directory), fix=fix)


def warn_of_public_token(path: Path) -> None:
    """Warn if other users may read or replace the token. Raises OSError."""
    if path.stat().st_mode & OTHERS:
        fix = f"chmod 600 {path}"
        log.warning("other users may read the token file", path=str(path), fix=fix)


def _is_ours(names: Collection[str]) -> bool:
    return not names or any(name in OURS for name in names)
