"""How processes of ours are started: what they import, and what of our environment they see.

Python puts the working directory in front of its library for `-m`, and an empty or relative entry
of PYTHONPATH does the same: a `random.py` there would be run in place of Python's. A child gets
neither.

A child sees no variable that it has no use for. Tokens and keys are often kept in the environment,
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
"""Variables of every child."""

COMMON_PREFIXES = ("LC_", "PYTHON")

WORKER_PREFIXES = (
    *("MLX_", "METAL_", "MTL_", "DYLD_", "LD_", "GLIBC_", "MALLOC_", "Malloc"),
    *("CUDA_", "CUDNN_", "NCCL_", "NVIDIA_", "OMP_", "OPENBLAS_", "VECLIB_"),
)
"""Of variables that MLX, its drivers and the allocator read."""

FETCH_NAMES = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    | {"HUGGING_FACE_HUB_TOKEN"}
)
"""In either case: what reaches the hub, and whose token it is."""

FETCH_PREFIXES = ("HF_",)


def python(module: str, *words: str) -> tuple[str, ...]:
    """A command that runs a module with this very Python, whatever the working directory holds."""
    return (sys.executable, "-P", "-m", module, *words)


def kill_group(leader: int) -> None:
    """Kill what is left of the process group that a child of ours leads, or led."""
    # macOS answers PermissionError for a group of which nothing but zombies is left.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def for_worker(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a worker gets: no token of the hub, of ours or of anything else."""
    return _of(environ, frozenset(), WORKER_PREFIXES)


def for_fetch(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that a download gets: the hub's own, and how it is reached."""
    return _of(environ, FETCH_NAMES, FETCH_PREFIXES)


def without_relative_paths(environ: Mapping[str, str]) -> dict[str, str]:
    """All variables, without those entries of PYTHONPATH that the working directory decides."""
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
