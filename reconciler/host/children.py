"""Command lines and environment variables of child processes.

With `-m`, Python puts the working directory before its library, and so does an empty or relative
entry of PYTHONPATH: a `random.py` there would be imported instead of Python's. A child gets
neither.

A child gets only the variables that it needs. Tokens and keys are often kept in the environment,
and workers read files that strangers published.
"""

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

COMMON = frozenset(
    {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TEMP", "TMP", "TMPDIR", "TZ", "USER"}
    | {"SSL_CERT_DIR", "SSL_CERT_FILE", "VIRTUAL_ENV", "XDG_CACHE_HOME", "__CF_USER_TEXT_ENCODING"}
)
"""Variables passed to every child."""

COMMON_PREFIXES = ("LC_", "PYTHON")

WORKER_PREFIXES = (
    *("MLX_", "METAL_", "MTL_", "DYLD_", "LD_", "GLIBC_", "MALLOC_", "Malloc"),
    *("CUDA_", "CUDNN_", "NCCL_", "NVIDIA_", "OMP_", "OPENBLAS_", "VECLIB_"),
)
"""Prefixes of variables that MLX, its drivers and the allocator read."""

FETCH_NAMES = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HUGGING_FACE_HUB_TOKEN"}
)
"""Variables for access to the hub, in upper or lower case, and its token."""

FETCH_PREFIXES = ("HF_",)


def python(module: str, *words: str) -> tuple[str, ...]:
    """Command that runs a module with this Python, regardless of files in the working directory."""
    return (sys.executable, "-P", "-m", module, *words)


def kill_group(leader: int) -> None:
    """Kill the remaining processes of the group that a child process leads or led."""
    # macOS raises PermissionError for a group in which only zombies are left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def for_worker(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for a worker: without tokens of the hub, of ours or of anything else."""
    return _of(environ, frozenset(), WORKER_PREFIXES)


def with_tunables(environ: Mapping[str, str], ours: Mapping[str, str]) -> dict[str, str]:
    """Add tunables of glibc to GLIBC_TUNABLES; values that are set in either way stay.

    glibc also reads `glibc.malloc.NAME` from MALLOC_NAME_.
    """
    theirs = environ.get("GLIBC_TUNABLES", "")
    named = {pair.partition("=")[0] for pair in theirs.split(":")}
    added = [
        f"{name}={value}"
        for name, value in ours.items()
        if name not in named and f"MALLOC_{name.rpartition('.')[2].upper()}_" not in environ
    ]
    both = ":".join([*added, theirs] if theirs else added)
    return {**environ, "GLIBC_TUNABLES": both} if both else dict(environ)


def for_fetch(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for a download: the hub's own, and those needed to reach it."""
    return _of(environ, FETCH_NAMES, FETCH_PREFIXES)


def without_relative_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables without the entries of PYTHONPATH that depend on the working directory."""
    kept = dict(environ)
    if "PYTHONPATH" in kept:
        paths = kept.pop("PYTHONPATH").split(os.pathsep)
        if absolute := [path for path in paths if Path(path).is_absolute()]:
            kept["PYTHONPATH"] = os.pathsep.join(absolute)
    return kept


def _of(
    environ: Mapping[str, str], names: frozenset[str], prefixes: tuple[str, ...]
) -> dict[str, str]:
    return without_relative_paths(
        {
            key: value
            for key, value in environ.items()
            if key in COMMON
            or key.upper() in names
            or key.startswith((*COMMON_PREFIXES, *prefixes))
        }
    )
