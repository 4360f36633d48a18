"""The kernel's own answer to which pages of a file are cached, on Linux."""

import ctypes
import os
import sys
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
_PROT_READ, _MAP_SHARED = 1, 1


def drop(file: Path) -> None:
    """Drop a file from the page cache; a file system in memory keeps it."""
    if sys.platform == "linux":
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cached(file: Path) -> float:
    """Part of a file's pages that are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    size = file.stat().st_size
    pages = ctypes.create_string_buffer(-(-size // PAGE))
    with file.open("rb") as opened:
        mapped = libc.mmap(None, size, _PROT_READ, _MAP_SHARED, opened.fileno(), 0)
    if libc.mincore(mapped, size, pages):
        raise OSError(ctypes.get_errno(), "mincore")
    libc.munmap(mapped, size)
    return sum(page & 1 for page in pages.raw) / len(pages.raw)
