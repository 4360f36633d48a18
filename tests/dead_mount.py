"""Mounts a file system whose server never answers, like a lost network drive: calls on it hang."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DETACH = 2
"""MNT_DETACH of Linux's umount2."""


@contextlib.contextmanager
def dead_mount(path: Path) -> Iterator[None]:
    """Mount one on the directory `path`; skips the test if that is not permitted.

    It is a FUSE mount whose requests no process reads.
    """
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError:
        pytest.skip("there is no FUSE here")
    try:
        options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
        target = os.fsencode(path)
        if libc is None or libc.mount(b"dead", target, b"fuse", 0, options.encode()):
            pytest.skip("file systems may not be mounted here")
        try:
            yield
        finally:
            libc.umount2(target, DETACH)
    finally:
        os.close(device)  # hung calls fail
